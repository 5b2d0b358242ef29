//! Asks a node about a REALITY dest: what counts is how the dest looks from there.

use contract::{Code, Error, NodeName, fleet::Reality, runtime::ProbeDest};

use crate::{Ctx, config::PROBE_WITHIN};

/// Refuses a dest that answers and will not do. One that cannot be looked at now is a warning: a node may be
/// down, and its dest may be back before it is.
pub(crate) async fn warning(ctx: &Ctx, node: &NodeName, reality: &Reality) -> Result<Option<String>, Error> {
    let server_name = reality.server_names.first().cloned().unwrap_or_default();
    let request = ProbeDest { node: node.clone(), dest: reality.dest.clone(), server_name };
    match ctx.bus.call_within(request, PROBE_WITHIN).await {
        Ok(_) => Ok(None),
        Err(error) if error.code == Code::FLEET_DEST_NOT_TLS13 => Err(error),
        Err(error) => Ok(Some(format!(
            "whether {} speaks TLS 1.3 with X25519 could not be checked from node {node}: {}",
            reality.dest, error.message
        ))),
    }
}
