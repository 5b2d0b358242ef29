//! `vpn events`.

use std::time::Duration;

use clap::Args;
use contract::{NodeName, ServerName};

use super::value;

pub(super) const EXAMPLES: &str = "\
Examples:
  vpn events                             the last ones
  vpn events --follow --server wg
  vpn events --since 1h --tail 1000 -o json";

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only those of this server
    #[arg(long, value_name = "NAME")]
    pub(crate) server: Option<ServerName>,
    /// Only those on this node
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<NodeName>,
    /// Only those not older than this, such as 30m, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = value::age)]
    pub(crate) since: Option<Duration>,
    /// At most so many of those that have happened
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) tail: usize,
}
