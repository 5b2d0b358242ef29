//! Reads one node.

use std::sync::Arc;

use contract::fleet::{GetNode, Node};

use crate::{Ctx, error::Error};

/// As it is in memory, which follows the bucket.
pub(crate) async fn get_node(ctx: Arc<Ctx>, request: GetNode) -> Result<Node, Error> {
    let node = ctx.store.nodes().get(request.name.as_str()).cloned();
    node.ok_or(Error::NodeNotFound(request.name))
}
