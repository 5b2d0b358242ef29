//! `vpn stats`.

use clap::{Args, Subcommand, ValueEnum};
use contract::{NodeName, ServerName, UserName, stats};

const USAGE_EXAMPLES: &str = "\
Examples:
  vpn stats usage alice
  vpn stats usage --server reality-443
  vpn stats usage alice -o json | jq .traffic";

const TOP_EXAMPLES: &str = "\
Examples:
  vpn stats top                          who used most
  vpn stats top --by rate                who uses most now
  vpn stats top servers --limit 50";

/// What can be asked about usage.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what a user, a server or a node has sent and received
    #[command(after_help = USAGE_EXAMPLES)]
    Usage(Usage),
    /// List who used most
    #[command(after_help = TOP_EXAMPLES)]
    Top(Top),
}

/// Of whom.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Usage {
    /// Of this user
    user: Option<UserName>,
    /// Through this server
    #[arg(long, value_name = "NAME")]
    server: Option<ServerName>,
    /// Through all servers of this node
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
}

impl Usage {
    /// The request; one of the three is there.
    pub(crate) fn request(self) -> Option<stats::GetUsage> {
        let user = self.user.map(stats::GetUsage::User);
        user.or(self.server.map(stats::GetUsage::Server)).or(self.node.map(stats::GetUsage::Node))
    }
}

/// Which.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Of what: users, servers or nodes
    #[arg(value_enum, default_value_t = Of::Users, hide_possible_values = true)]
    of: Of,
    /// What comes first: total or rate
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Total, hide_possible_values = true)]
    by: By,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(stats::PAGE_MAX)))]
    limit: u32,
    /// Leave out so many of the first
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    offset: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    Users,
    Servers,
    Nodes,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Total,
    Rate,
}

impl From<Top> for stats::Top {
    fn from(top: Top) -> Self {
        let of = match top.of {
            Of::Users => stats::Kind::Users,
            Of::Servers => stats::Kind::Servers,
            Of::Nodes => stats::Kind::Nodes,
        };
        let by = match top.by {
            By::Total => stats::By::Total,
            By::Rate => stats::By::Rate,
        };
        Self { of, by, limit: Some(top.limit), offset: top.offset }
    }
}
