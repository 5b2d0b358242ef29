//! One verb, one file.

mod announce;
mod create_server;
mod delete_server;
mod get_node;
mod get_server;
mod list_nodes;
mod list_servers;
mod run_server;
mod update_server;

pub(crate) use announce::announce;
pub(crate) use create_server::create_server;
pub(crate) use delete_server::delete_server;
pub(crate) use get_node::get_node;
pub(crate) use get_server::get_server;
pub(crate) use list_nodes::list_nodes;
pub(crate) use list_servers::list_servers;
pub(crate) use run_server::run_server;
pub(crate) use update_server::update_server;

use contract::{NodeName, fleet::Presence};

use crate::Ctx;

/// What to mind about a server whose node is not heard.
fn lost_warning(ctx: &Ctx, node: &NodeName) -> Option<String> {
    match ctx.store.nodes().get(node.as_str())?.presence {
        Presence::Online => None,
        Presence::Lost { since } => {
            Some(format!("node {node} is not heard since {since:.0}; it follows when it is back"))
        }
    }
}
