use std::sync::Arc;

use contract::{
    Error,
    fleet::AddressSource,
    runtime::{Check, Inspect, NodeReport},
};

use crate::{Serving, sockets};

/// What this node is made of, and what it cannot do.
pub(crate) async fn inspect(ctx: Arc<Serving>, _: Inspect) -> Result<NodeReport, Error> {
    let ctx = &ctx.ctx;
    let mut checks = vec![Check {
        name: "container runtime".to_owned(),
        ok: true,
        detail: format!("{} ({})", ctx.backend.name(), ctx.because),
    }];
    checks.extend(ctx.backend.checks().await);
    checks.extend(tokio::task::spawn_blocking(sockets::check).await);
    let address = &ctx.address;
    checks.push(match address.source {
        AddressSource::Given => {
            Check { name: "public address".to_owned(), ok: true, detail: format!("{} (given)", address.host) }
        }
        AddressSource::Detected => Check {
            name: "public address".to_owned(),
            ok: true,
            detail: format!("{} (detected: wrong behind a NAT; give another with --address)", address.host),
        },
    });
    Ok(NodeReport { node: ctx.config.node.clone(), checks })
}
