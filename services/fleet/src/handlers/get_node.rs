//! Reads one node.

use std::sync::Arc;

use contract::fleet::{GetNode, Node};

use crate::{Ctx, error::Error};

/// As it is in memory, which follows the bucket.
pub(crate) async fn get_node(ctx: Arc<Ctx>, request: GetNode) -> Result<Node, Error> {
    let name = request.name;
    let found = ctx.store.decide(|nodes, _| {
        nodes.get(name.as_str()).cloned().ok_or_else(|| Error::NodeNotFound(name.clone()))
    });
    Ok(found.await?.decision)
}
