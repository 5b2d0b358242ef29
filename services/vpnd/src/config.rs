//! Arguments and environment. Every option stands here once.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args as ClapArgs, Parser, Subcommand};
use contract::{ImageRef, NodeName, Port};
use ipnet::IpNet;
use runtime::{
    backend::detect::{Choice, docker_socket},
    engine::{wireguard, wireguard::DeviceConfig, xray},
};

/// The services of the VPN control plane.
#[derive(Parser)]
#[command(name = "vpnd", version, about, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to run.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Accounts and their lifecycle
    Users,
    /// Credentials, server keys and links; the only service with the master key
    Keys(Keys),
    /// Nodes and servers: what should run where
    Fleet,
    /// The agent of this node: runs its servers
    Runtime(Runtime),
    /// Totals and rates of what users, servers and nodes send and receive
    Stats(Stats),
    /// All services in one process
    All(Box<All>),
    /// The process inside a WireGuard server's container
    #[command(hide = true)]
    WireguardDevice(Device),
}

impl Command {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Keys(_) => "keys",
            Self::Fleet => "fleet",
            Self::Runtime(_) => "runtime",
            Self::Stats(_) => "stats",
            Self::All(_) => "vpnd",
            Self::WireguardDevice(_) => "wireguard-device",
        }
    }
}

/// What every service needs.
#[derive(ClapArgs, Clone)]
pub(crate) struct Common {
    /// URL of the bus
    #[arg(long, env = "NATS_URL", default_value = bus::config::DEFAULT_URL, global = true, hide_env_values = true)]
    pub(crate) nats: String,
    /// Credentials file for the bus
    #[arg(long, env = "NATS_CREDS", global = true)]
    pub(crate) creds: Option<PathBuf>,
    /// File with this service's nkey seed for the bus
    #[arg(long, env = "NATS_NKEY", global = true, conflicts_with = "creds")]
    pub(crate) nkey: Option<PathBuf>,
    /// File with certificates to trust besides the system's
    #[arg(long, env = "NATS_CA", global = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Where traces go (OTLP over gRPC), such as http://127.0.0.1:4317
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub(crate) otlp: Option<String>,
    /// The share of traces that is kept, from 0 to 1; those that change something are always kept
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = 1.0, global = true)]
    pub(crate) trace_ratio: f64,
    /// What is logged: a level, or levels by module, such as warn,bus=debug
    #[arg(long, env = "VPN_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
    /// How the log looks: auto, text or json
    #[arg(long, env = "VPN_LOG_FORMAT", default_value = "auto", global = true)]
    pub(crate) log_format: telemetry::LogFormat,
}

impl Common {
    pub(crate) fn telemetry(&self, service: &str) -> telemetry::Config {
        telemetry::Config {
            otlp: self.otlp.clone(),
            log: self.log_format,
            filter: self.log.clone(),
            sample_ratio: self.trace_ratio,
            ..telemetry::Config::new(service)
        }
    }

    pub(crate) fn bus(&self, service: &str) -> bus::Config {
        let auth = match (&self.creds, &self.nkey) {
            (Some(creds), _) => bus::Auth::Credentials(creds.clone()),
            (None, Some(nkey)) => bus::Auth::Nkey(nkey.clone()),
            (None, None) => bus::Auth::None,
        };
        bus::Config { auth, ca_file: self.ca.clone(), ..bus::Config::new(&self.nats, service) }
    }
}

/// All services in one process.
#[derive(ClapArgs)]
pub(crate) struct All {
    /// Start a nats-server too, on loopback, at the port of the bus's URL
    #[arg(long)]
    pub(crate) embedded_bus: bool,
    /// Where the embedded bus and the services keep their files
    #[arg(long, env = "VPN_DATA", default_value = "/var/lib/vpn")]
    pub(crate) data: PathBuf,
    /// The nats-server program; looked for next to vpnd and on the PATH otherwise
    #[arg(long, env = "VPN_NATS_SERVER")]
    pub(crate) nats_server: Option<PathBuf>,
    #[command(flatten)]
    keys: MasterKey,
    #[command(flatten)]
    runtime: RuntimeOptions,
}

impl All {
    /// The master key is made at the first start, where no other is named.
    pub(crate) fn keys(&self) -> keys::Config {
        match self.keys.file() {
            Some(file) => keys::Config::new(file),
            None => keys::Config::new(self.data.join("master.key")).creating(),
        }
    }

    pub(crate) fn runtime(&self) -> anyhow::Result<runtime::Config> {
        self.runtime.config(&self.data)
    }

    pub(crate) fn stats(&self) -> stats::Config {
        stats_config(&self.data)
    }
}

/// Credentials, server keys and links.
#[derive(ClapArgs)]
pub(crate) struct Keys {
    #[command(flatten)]
    master: MasterKey,
    /// Make the master key at the first start, where the file is not there and nothing was sealed before
    #[arg(long)]
    create_master_key: bool,
}

impl Keys {
    pub(crate) fn config(&self) -> Result<keys::Config, contract::Error> {
        let file = self.master.file().ok_or_else(|| {
            contract::Error::new(contract::Code::KEYS_MASTER_MISSING, "no file with a master key is named")
        })?;
        let config = keys::Config::new(file);
        Ok(if self.create_master_key { config.creating() } else { config })
    }
}

#[derive(ClapArgs)]
struct MasterKey {
    /// File with the master key, of mode 0600 [default: the systemd credential vpn-master-key, if there is one]
    #[arg(long = "master-key", env = "VPN_MASTER_KEY_FILE", value_name = "FILE")]
    master_key: Option<PathBuf>,
    /// Where systemd puts credentials
    #[arg(long, env = "CREDENTIALS_DIRECTORY", hide = true)]
    credentials_directory: Option<PathBuf>,
}

impl MasterKey {
    fn file(&self) -> Option<PathBuf> {
        let credential = || {
            let file = self.credentials_directory.as_ref()?.join("vpn-master-key");
            file.exists().then_some(file)
        };
        self.master_key.clone().or_else(credential)
    }
}

/// Totals and rates.
#[derive(ClapArgs)]
pub(crate) struct Stats {
    /// Where it keeps what it has counted
    #[arg(long, env = "VPN_DATA", default_value = "/var/lib/vpn")]
    data: PathBuf,
}

impl Stats {
    pub(crate) fn config(&self) -> stats::Config {
        stats_config(&self.data)
    }
}

fn stats_config(data: &Path) -> stats::Config {
    stats::Config { state_dir: data.join("stats") }
}

/// The agent of this node.
#[derive(ClapArgs)]
pub(crate) struct Runtime {
    /// Where the agent keeps its key and what it was told last
    #[arg(long, env = "VPN_DATA", default_value = "/var/lib/vpn")]
    data: PathBuf,
    #[command(flatten)]
    options: RuntimeOptions,
}

impl Runtime {
    pub(crate) fn config(&self) -> anyhow::Result<runtime::Config> {
        self.options.config(&self.data)
    }
}

#[derive(ClapArgs)]
struct RuntimeOptions {
    /// The name of this node [default: the host's name]
    #[arg(long, env = "VPN_NODE")]
    node: Option<NodeName>,
    /// The public name or address that links carry [default: that of the interface with the default route]
    #[arg(long, env = "VPN_ADDRESS")]
    address: Option<String>,
    /// What runs servers: auto, docker or process
    #[arg(long, env = "VPN_BACKEND", default_value = "auto")]
    backend: Choice,
    /// The Docker daemon's unix socket
    #[arg(long, env = "DOCKER_HOST", value_name = "unix://PATH")]
    docker_host: Option<String>,
    /// What instances share with the agent, best on a tmpfs: engines find their users' secrets there
    #[arg(long, env = "VPN_RUN_DIR", default_value = "/run/vpn")]
    run_dir: PathBuf,
    /// The Xray program, for child processes; looked for next to vpnd and on the PATH otherwise
    #[arg(long, env = "VPN_XRAY")]
    xray: Option<PathBuf>,
    /// The image of Xray servers that name none
    #[arg(long, env = "VPN_XRAY_IMAGE", default_value = xray::IMAGE)]
    xray_image: ImageRef,
    /// The image of WireGuard servers that name none
    #[arg(long, env = "VPN_WIREGUARD_IMAGE", default_value = wireguard::IMAGE)]
    wireguard_image: ImageRef,
    /// Where programs are looked for
    #[arg(long, env = "PATH", hide = true, hide_env_values = true)]
    path: Option<std::ffi::OsString>,
}

impl RuntimeOptions {
    fn config(&self, data: &Path) -> anyhow::Result<runtime::Config> {
        let node = match &self.node {
            Some(node) => node.clone(),
            None => own_name()?,
        };
        let vpnd = std::env::current_exe().context("find our own program")?;
        let beside = |name: &str| vpnd.parent().map(|folder| folder.join(name)).filter(|path| path.exists());
        Ok(runtime::Config {
            node,
            address: self.address.clone(),
            backend: self.backend,
            docker_socket: docker_socket(self.docker_host.as_deref())?,
            state_dir: data.join("runtime"),
            run_dir: self.run_dir.clone(),
            search: self.path.iter().flat_map(std::env::split_paths).collect(),
            xray: self.xray.clone().or_else(|| beside("xray")).unwrap_or_else(|| "xray".into()),
            xray_image: self.xray_image.clone(),
            wireguard_image: self.wireguard_image.clone(),
            vpnd,
        })
    }
}

/// The host's name as the name of a node.
fn own_name() -> anyhow::Result<NodeName> {
    let name = nix::unistd::gethostname().context("read the host's name")?;
    let name = name.to_string_lossy();
    let short = name.split('.').next().unwrap_or_default().to_lowercase();
    short
        .parse()
        .with_context(|| format!("the host's name {name:?} cannot be a node's; give one with --node"))
}

/// A WireGuard device.
#[derive(ClapArgs)]
pub(crate) struct Device {
    #[arg(long)]
    run_dir: PathBuf,
    #[arg(long)]
    interface: String,
    #[arg(long)]
    port: Port,
    #[arg(long)]
    allow: Vec<IpNet>,
    #[arg(long)]
    deny: Vec<IpAddr>,
}

impl From<Device> for DeviceConfig {
    fn from(device: Device) -> Self {
        let Device { run_dir, interface, port, allow, deny } = device;
        Self { run_dir, interface, port, allow, deny }
    }
}
