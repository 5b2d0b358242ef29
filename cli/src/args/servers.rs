//! The verbs of `vpn servers`.

use clap::Subcommand;
use contract::{ByteCount, HostPort, ImageRef, NodeName, Port, Protocol, ServerName};
use ipnet::IpNet;

/// What can be done with servers.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a server; its keys and its instance follow
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List servers, and what runs for them
    List {
        /// Only those on this node
        #[arg(long)]
        node: Option<NodeName>,
    },
    /// Show one server, and what runs for it
    #[command(visible_alias = "get")]
    Show {
        /// Which
        name: ServerName,
    },
    /// Change what is named; what is not named stays
    Update(Update),
    /// It should run
    Start(Run),
    /// It should not run: its connections end
    Stop(Run),
    /// It should start anew: its connections end
    Restart(Run),
    /// Remove a server with its instance and keys: its connections end, its links are void
    Delete {
        /// Which
        name: ServerName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

const CREATE_EXAMPLES: &str = "\
Examples:
  vpn servers create reality-443 --protocol vless-reality --dest www.microsoft.com:443
  vpn servers create ss-8388 --protocol shadowsocks-2022
  vpn servers create wg-51820 --protocol wireguard --node this-host --wait";

/// A server to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name: 1 to 64 of a-z, 0-9, - and _
    pub(crate) name: ServerName,
    /// What it speaks: vless-reality, shadowsocks-2022 or wireguard
    #[arg(long)]
    pub(crate) protocol: Protocol,
    /// The port that clients connect to [default: 443, 8388 or 51820, as the protocol has it]
    #[arg(long)]
    pub(crate) port: Option<Port>,
    /// Where it runs [default: any node that is heard and has the port free]
    #[arg(long)]
    pub(crate) node: Option<NodeName>,
    /// The image its container is made from [default: the node's choice]
    #[arg(long)]
    pub(crate) image: Option<ImageRef>,
    #[command(flatten)]
    pub(crate) reality: Reality,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// A private range that its users may reach all the same; may be given several times
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_private: Vec<IpNet>,
    /// Wait until it runs
    #[arg(long)]
    pub(crate) wait: bool,
}

/// What REALITY pretends to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Reality {
    /// vless-reality: the site whose handshake strangers see; must speak TLS 1.3 with X25519
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) dest: Option<HostPort>,
    /// vless-reality: a name in the dest's certificate that clients ask for; may be given several times
    /// [default: the dest's host]
    #[arg(long = "server-name", value_name = "NAME")]
    pub(crate) server_names: Vec<String>,
}

/// What an instance may use.
#[derive(Debug, clap::Args)]
pub(crate) struct Resources {
    /// Memory its instance may use [default: 512MiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<ByteCount>,
    /// Threads and processes its instance may have [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pids: Option<u32>,
}

/// What to change about a server.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["port", "image", "dest", "server_names", "memory", "pids", "allow_private", "no_allow_private"]))]
#[command(override_usage = "vpn servers update <NAME> <WHAT TO CHANGE>...")]
pub(crate) struct Update {
    /// Which
    pub(crate) name: ServerName,
    /// The port that clients connect to: links made before are void
    #[arg(long)]
    pub(crate) port: Option<Port>,
    /// The image its container is made from
    #[arg(long)]
    pub(crate) image: Option<ImageRef>,
    #[command(flatten)]
    pub(crate) reality: Reality,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// All private ranges that its users may reach from now on; may be given several times
    #[arg(long, value_name = "CIDR", conflicts_with = "no_allow_private")]
    pub(crate) allow_private: Vec<IpNet>,
    /// Its users reach nothing private any more
    #[arg(long)]
    pub(crate) no_allow_private: bool,
}

/// Which server to start, stop or restart.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Which
    pub(crate) name: ServerName,
    /// Wait until it is so
    #[arg(long)]
    pub(crate) wait: bool,
}
