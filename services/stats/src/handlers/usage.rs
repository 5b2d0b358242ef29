use std::{sync::Arc, time::Instant};

use contract::stats::{GetUsage, Total};

use super::total;
use crate::{Counted, Ctx, Error};

/// Reads what a user, a server or a node has sent and received in all.
pub(crate) async fn usage(ctx: Arc<Ctx>, request: GetUsage) -> Result<Total, Error> {
    let now = Instant::now();
    let mut counted = ctx.counted();
    let Counted { totals, recent } = &mut *counted;
    match request {
        GetUsage::User(name) => {
            let id = ctx.names.id(&name).ok_or(Error::NoUser(name))?;
            // Who never connected has used nothing.
            Ok(total(totals.users.get(&id).copied().unwrap_or_default(), recent.user(id, now)))
        }
        GetUsage::Server(name) => {
            // Of servers that had the name one after the other the last one's.
            let of = totals.servers.iter().filter(|(_, (server, _))| *server == name);
            let (id, (_, sum)) =
                of.max_by_key(|(_, (_, sum))| sum.last_millis).ok_or(Error::NoServer(name))?;
            Ok(total(*sum, recent.server(*id, now)))
        }
        GetUsage::Node(node) => {
            let sum = totals.nodes.get(&node).map(|of| of.sum);
            let rate = recent.node(&node, now);
            Ok(total(sum.ok_or(Error::NoNode(node))?, rate))
        }
    }
}
