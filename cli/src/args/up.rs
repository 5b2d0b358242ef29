//! `vpn up` and `vpn down`.

use std::{path::PathBuf, time::Duration};

use contract::{HostPort, Port, Protocol, ServerName, UserName};
use ipnet::IpNet;

use super::value;

const UP_EXAMPLES: &str = "\
What is there already is left as it is: `vpn up` may be repeated. Without a bus it starts `vpnd all` with a bus of \
its own in the background; its log is DIR/vpnd.log, and `vpn down` stops it.

Examples:
  vpn up
  vpn up --port 8443 --dest www.microsoft.com:443 --user alice
  vpn up --server-protocol wireguard --backend process";

/// What to start.
#[derive(Debug, clap::Args)]
#[command(after_help = UP_EXAMPLES)]
pub(crate) struct Up {
    /// Where it all lives [default: $XDG_DATA_HOME/vpn, else ~/.local/share/vpn]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// What runs the servers' containers: docker, or process for child processes [default: as before, else what is
    /// there]
    #[arg(long)]
    pub(crate) backend: Option<String>,
    /// The public name or address of this machine, for links [default: as before, else detected]
    #[arg(long, value_name = "HOST")]
    pub(crate) address: Option<String>,
    /// The first server's name [default: made of protocol and port, such as reality-443]
    #[arg(long, value_name = "NAME")]
    pub(crate) server: Option<ServerName>,
    /// The first server's protocol: vless-reality, shadowsocks-2022 or wireguard [default: vless-reality]
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) server_protocol: Option<Protocol>,
    /// The first server's port [default: 443, 8388 or 51820, as the protocol has it]
    #[arg(long)]
    pub(crate) port: Option<Port>,
    /// vless-reality: the site whose handshake strangers see [default: www.microsoft.com:443; where that cannot
    /// be reached, the first server is a shadowsocks-2022]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) dest: Option<HostPort>,
    /// vless-reality: the name in the dest's certificate that clients ask for [default: the dest's host]
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// A private range that the first server's users may reach; may be given several times
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_private: Vec<IpNet>,
    /// The first user's name [default: me]
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<UserName>,
    /// How long all of it may take
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "60s")]
    pub(crate) wait: Duration,
}

const DOWN_EXAMPLES: &str = "\
Everything is kept: users, servers and keys are there again after the next `vpn up`.";

/// What to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = DOWN_EXAMPLES)]
pub(crate) struct Down {
    /// Where it lives [default: $XDG_DATA_HOME/vpn, else ~/.local/share/vpn]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Leave the VPN servers of this machine running: they keep serving their users
    #[arg(long)]
    pub(crate) keep_servers: bool,
}
