//! A bus, the services, and `vpn` to run against them.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bus::{Bus, Config, Shutdown};
use contract::{
    fleet::{AddressSource, Announce, ListNodes, PublicAddress},
    users::List,
};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{nats::NatsServer, wait::eventually};

/// Long enough for two cores that also compile.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A bus with `users`, `keys` and `fleet`, one node that announced itself, and nobody who runs servers.
pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) vpn: Vpn,
    _shutdown: Shutdown,
}

impl World {
    pub(crate) async fn start() -> Self {
        let nats = NatsServer::start().await;
        let connect = |name: &str| {
            let config = Config::new(nats.url(), name);
            async move { Bus::connect(&config).await.unwrap() }
        };
        let (bus, shutdown, vpn) = (connect("test").await, Shutdown::new(), Vpn::new(&nats.url()));
        let key = vpn.home().join("master.key");
        tokio::spawn(::users::serve(connect("users").await, shutdown.clone()));
        tokio::spawn(::keys::serve(
            connect("keys").await,
            ::keys::Config::new(key).creating(),
            shutdown.clone(),
        ));
        tokio::spawn(fleet::serve(connect("fleet").await, fleet::Config::default(), shutdown.clone()));
        eventually("users answers", SOON, async || bus.call(List::default()).await).await;
        eventually("keys answers", SOON, async || bus.call(contract::keys::Status {}).await).await;
        eventually("fleet answers", SOON, async || bus.call(ListNodes {}).await).await;
        bus.call(Announce {
            node: "one".parse().unwrap(),
            address: PublicAddress { host: "192.168.1.7".to_owned(), source: AddressSource::Detected },
            curve_key: "XABCDEF234567".to_owned(),
            backend: "process".to_owned(),
            backend_version: "1".to_owned(),
            cpus: 2,
            version: "0.1.0".to_owned(),
        })
        .await
        .unwrap();
        Self { nats, vpn, _shutdown: shutdown }
    }
}

/// The binary, with a home of its own and nothing of the surroundings.
pub(crate) struct Vpn {
    home: TempDir,
    env: Vec<(String, String)>,
}

impl Vpn {
    pub(crate) fn new(url: &str) -> Self {
        let home = tempfile::Builder::new().prefix("vpn-test-home-").tempdir().unwrap();
        Self { home, env: vec![("NATS_URL".to_owned(), url.to_owned())] }
    }

    /// With another variable in its environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The bus that it is for.
    pub(crate) fn url(&self) -> &str {
        &self.env[0].1
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vpn"));
        let tools = testkit::programs::workspace().join("tools/bin");
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path))).unwrap();
        command.env_clear().env("HOME", self.home()).env("USER", "tester").env("PATH", path);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(self.home());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        self.run_with(args, "")
    }

    /// The same with something on its standard input.
    pub(crate) fn run_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, input: &str) -> Ran {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that does not read its input may have ended by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a line of words, which has to succeed.
    pub(crate) fn ok(&self, line: &str) -> String {
        let ran = self.run(line.split_whitespace());
        assert_eq!(ran.code, Some(0), "vpn {line}: {ran:?}");
        assert!(!ran.out.contains('\u{1b}'), "no colours where no terminal is: {ran:?}");
        ran.out
    }

    /// The same with its result as a value.
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -o json"))).unwrap()
    }

    /// Runs a line of words, which has to be refused; returns the error's code.
    pub(crate) fn refused(&self, line: &str, exit: i32) -> String {
        let ran = self.run(line.split_whitespace());
        assert_eq!((ran.code, ran.out.as_str()), (Some(exit), ""), "vpn {line}: {ran:?}");
        ran.error_code()
    }

    /// Writes a file into its home.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// How it ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// What stands in `error[CODE]: …`.
    pub(crate) fn error_code(&self) -> String {
        let (_, rest) = self.err.split_once("error[").unwrap_or_else(|| panic!("no error: {self:?}"));
        rest.split_once("]: ").unwrap().0.to_owned()
    }
}
