//! Reads the servers.

use std::sync::Arc;

use contract::fleet::{ListServers, Servers};

use crate::{Ctx, error::Error};

/// By name.
pub(crate) async fn list_servers(ctx: Arc<Ctx>, request: ListServers) -> Result<Servers, Error> {
    let on = |node: &_| request.node.as_ref().is_none_or(|wanted| wanted == node);
    let servers = ctx.store.servers().values().filter(|server| on(&server.node)).cloned().collect();
    Ok(Servers { servers })
}
