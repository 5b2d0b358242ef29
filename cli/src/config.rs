//! The environment, read here and nowhere else, and how the bus is found.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use bus::Auth;
use contract::{Code, Error};

use crate::args::Global;

/// What the command is told by its options and its environment.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// How long each answer may take.
    pub(crate) timeout: Duration,
    /// Whether people asked for no colours (<https://no-color.org>).
    pub(crate) no_color: bool,
    /// Who causes what the command does.
    pub(crate) actor: String,
    /// The trace that the command is part of, so that a script can group commands in one.
    pub(crate) traceparent: Option<String>,
    /// Where programs are looked for.
    pub(crate) path: OsString,
    /// Where `vpn up` keeps what it starts, unless told otherwise.
    pub(crate) data: Option<PathBuf>,
    /// The nats-server that `vpnd` is told to use by its environment.
    pub(crate) nats_server: Option<PathBuf>,
    /// A folder in memory.
    runtime: Option<PathBuf>,
    run_is_told: bool,
    url: Option<String>,
    context: Option<String>,
    env_url: Option<String>,
    env_context: Option<String>,
    credentials: Option<PathBuf>,
    nkey: Option<PathBuf>,
    contexts: Option<PathBuf>,
    otlp: Option<String>,
    log: Option<String>,
}

impl Config {
    /// Options win over the environment.
    pub(crate) fn from_environment(global: &Global) -> Self {
        let home = path("HOME");
        let under = |variable, usual| path(variable).or_else(|| Some(home.as_ref()?.join(usual)));
        Self {
            timeout: global.timeout.unwrap_or(bus::call::CALL_WITHIN),
            no_color: text("NO_COLOR").is_some(),
            actor: text("USER").or_else(|| text("LOGNAME")).unwrap_or_else(|| "operator".to_owned()),
            traceparent: text("TRACEPARENT"),
            path: env::var_os("PATH").unwrap_or_default(),
            data: under("XDG_DATA_HOME", ".local/share").map(|folder| folder.join("vpn")),
            nats_server: path("VPN_NATS_SERVER"),
            runtime: path("XDG_RUNTIME_DIR")
                .or_else(|| rustix::process::geteuid().is_root().then(|| "/run".into())),
            run_is_told: path("VPN_RUN_DIR").is_some(),
            url: global.nats.clone(),
            context: global.context.clone(),
            env_url: text("NATS_URL"),
            env_context: text("NATS_CONTEXT"),
            credentials: path("NATS_CREDS"),
            nkey: path("NATS_NKEY"),
            contexts: under("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("nats")),
            otlp: text("OTEL_EXPORTER_OTLP_ENDPOINT"),
            log: text("VPN_LOG"),
        }
    }

    /// How to reach the bus: `--context`, else `--nats` or NATS_URL, else NATS_CONTEXT, else the selected context,
    /// else the default URL. `--nats` replaces a context's URL, NATS_CREDS and NATS_NKEY its credentials.
    pub(crate) fn bus(&self) -> Result<bus::Config, Error> {
        let url = self.url.as_ref().or(self.env_url.as_ref().filter(|_| self.context.is_none()));
        let wanted = match (&self.context, url) {
            (Some(context), _) => self.read_context(Some(context))?,
            (None, Some(_)) => None,
            (None, None) => self.read_context(self.env_context.as_deref())?,
        };
        let mut config = wanted.unwrap_or_else(|| bus::Config::new(bus::config::DEFAULT_URL, "vpn"));
        if let Some(url) = url {
            config.url.clone_from(url);
        }
        if let Some(file) = &self.credentials {
            config.auth = Auth::Credentials(file.clone());
        } else if let Some(file) = &self.nkey {
            config.auth = Auth::Nkey(file.clone());
        }
        Ok(config)
    }

    /// The same for another bus.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { url: Some(url.to_owned()), context: None, ..self.clone() }
    }

    /// Where engines find their configuration and secrets: in memory where there is such a place, under a name of
    /// its own for every `data` but the usual one, so that two houses on a machine do not meet. None where `vpnd` is
    /// told by its environment.
    pub(crate) fn run_folder(&self, data: &Path) -> Option<PathBuf> {
        if self.run_is_told {
            return None;
        }
        let Some(memory) = &self.runtime else { return Some(data.join("run")) };
        if self.data.as_deref() == Some(data) {
            return Some(memory.join("vpn"));
        }
        // FNV-1a: stable from build to build, and short, as paths of sockets must be.
        let hash =
            data.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
        Some(memory.join(format!("vpn-{hash:016x}")))
    }

    fn read_context(&self, name: Option<&str>) -> Result<Option<bus::Config>, Error> {
        match (&self.contexts, name) {
            (Some(folder), name) => bus::Config::from_context(folder, name, "vpn"),
            (None, None) => Ok(None),
            (None, Some(name)) => Err(Error::new(
                Code::CLI_CONTEXT_INVALID,
                format!("context {name:?} cannot be looked up: HOME is not set"),
            )),
        }
    }

    /// Traces go where OTEL_EXPORTER_OTLP_ENDPOINT says; what the libraries have to say is shown when VPN_LOG asks.
    pub(crate) fn telemetry(&self) -> telemetry::Config {
        telemetry::Config {
            otlp: self.otlp.clone(),
            filter: self.log.clone().unwrap_or_else(|| "off".to_owned()),
            ..telemetry::Config::new("vpn")
        }
    }
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let global = Global { nats: None, context: None, timeout: None, output: crate::args::Format::Table };
        Config {
            env_url: None,
            env_context: None,
            credentials: None,
            nkey: None,
            contexts: None,
            ..Config::from_environment(&global)
        }
    }

    #[test]
    fn houses_do_not_meet() {
        let config = |runtime: Option<&str>, run_is_told| Config {
            runtime: runtime.map(PathBuf::from),
            run_is_told,
            data: Some("/home/a/.local/share/vpn".into()),
            ..config()
        };
        let run = |config: Config, data: &str| config.run_folder(Path::new(data));
        let user = || config(Some("/run/user/7"), false);
        assert_eq!(run(user(), "/home/a/.local/share/vpn"), Some("/run/user/7/vpn".into()));
        let (one, two) = (run(user(), "/srv/one").unwrap(), run(user(), "/srv/two").unwrap());
        assert!(
            one != two && one.starts_with("/run/user/7") && one.as_os_str().len() < 40,
            "{one:?} {two:?}"
        );
        assert_eq!(run(config(None, false), "/srv/one"), Some("/srv/one/run".into()));
        assert_eq!(run(config(Some("/run/user/7"), true), "/srv/one"), None);
    }

    #[test]
    fn what_is_nearer_wins() {
        let folder = tempfile::tempdir().unwrap();
        let contexts = folder.path().join("context");
        std::fs::create_dir(&contexts).unwrap();
        for name in ["one", "two"] {
            let text = format!(r#"{{"url": "nats://{name}:4222", "creds": "/{name}.creds"}}"#);
            std::fs::write(contexts.join(format!("{name}.json")), text).unwrap();
        }
        let none = config();
        let with = Config { contexts: Some(folder.path().to_owned()), ..config() };
        let url = |config: &Config| config.bus().unwrap().url;

        assert_eq!(url(&none), bus::config::DEFAULT_URL);
        assert_eq!(url(&with), bus::config::DEFAULT_URL);
        std::fs::write(folder.path().join("context.txt"), "one\n").unwrap();
        assert_eq!(url(&with), "nats://one:4222");
        let env_context = Config { env_context: Some("two".to_owned()), ..with.clone() };
        assert_eq!(url(&env_context), "nats://two:4222");
        let env_url = Config { env_url: Some("nats://env".to_owned()), ..env_context.clone() };
        assert_eq!(url(&env_url), "nats://env");
        assert!(matches!(env_url.bus().unwrap().auth, Auth::None), "a context's credentials go nowhere else");
        let option = Config { url: Some("nats://option".to_owned()), ..env_url.clone() };
        assert_eq!(url(&option), "nats://option");
        let context = Config { context: Some("one".to_owned()), ..env_url.clone() };
        assert_eq!(url(&context), "nats://one:4222");
        let both = Config { url: Some("nats://option".to_owned()), ..context };
        assert_eq!(url(&both), "nats://option");
        assert!(matches!(both.bus().unwrap().auth, Auth::Credentials(file) if file.ends_with("one.creds")));
        let missing = Config { context: Some("three".to_owned()), ..with };
        assert_eq!(missing.bus().unwrap_err().code, Code::CLI_CONTEXT_INVALID);
    }
}
