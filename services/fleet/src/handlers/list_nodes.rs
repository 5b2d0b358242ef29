//! Reads the nodes.

use std::sync::Arc;

use contract::fleet::{ListNodes, Nodes};

use crate::{Ctx, error::Error};

/// By name.
pub(crate) async fn list_nodes(ctx: Arc<Ctx>, _: ListNodes) -> Result<Nodes, Error> {
    Ok(Nodes { nodes: ctx.store.nodes().values().cloned().collect() })
}
