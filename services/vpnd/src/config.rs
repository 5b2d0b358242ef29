//! Arguments and environment. Every option stands here once.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};
use contract::Port;
use ipnet::IpNet;
use runtime::engine::wireguard::DeviceConfig;

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
    /// All services in one process
    All(All),
    /// The process inside a WireGuard server's container
    #[command(hide = true)]
    WireguardDevice(Device),
}

impl Command {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Users => "users",
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
