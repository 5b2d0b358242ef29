//! An agent says that it is there.

use std::sync::Arc;

use contract::{
    Timestamp,
    fleet::{Announce, Announced, Presence},
};
use tokio::time::Instant;

use crate::{Ctx, config::NAMES_MAX, error::Error, presence, settings};

/// Stores what changed, which is nothing for almost every heartbeat.
pub(crate) async fn announce(ctx: Arc<Ctx>, request: Announce) -> Result<Announced, Error> {
    settings::check_announced(&request)?;
    {
        let nodes = ctx.store.nodes();
        match nodes.get(request.node.as_str()) {
            Some(node) if node.announced == request && node.presence == Presence::Online => {
                ctx.heard.node(&request.node, Instant::now());
                return Ok(Announced {});
            }
            Some(node) if node.announced.curve_key != request.curve_key => {
                // Also what two agents of one name look like: each takes the node from the other, every 2 s.
                tracing::warn!(node = %request.node, "the node has another curve key than before");
            }
            None if nodes.len() >= NAMES_MAX => return Err(Error::Full { what: "nodes", limit: NAMES_MAX }),
            _ => {}
        }
    }
    let decide = |node: Option<&_>| presence::announced(node, &request, Timestamp::now());
    ctx.store.change_node(&request.node, decide).await?;
    ctx.heard.node(&request.node, Instant::now());
    Ok(Announced {})
}
