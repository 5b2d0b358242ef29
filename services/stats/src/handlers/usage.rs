use std::{sync::Arc, time::Instant};

use contract::stats::{GetUsage, Total};

use super::total;
use crate::{Counted, Ctx, Error, fold::Sum};

/// Reads what a user, a server or a node has sent and received in all.
pub(crate) async fn usage(ctx: Arc<Ctx>, request: GetUsage) -> Result<Total, Error> {
    let now = Instant::now();
    let user = match &request {
        GetUsage::User(name) => Some(ctx.names.id(name).ok_or_else(|| Error::NoUser(name.clone()))?),
        _ => None,
    };
    let mut counted = ctx.counted();
    let Counted { totals, recent } = &mut *counted;
    match (request, user) {
        (GetUsage::Server(name), _) => {
            // Of servers that had the name one after the other the last one's.
            let of = totals.servers.iter().filter(|(_, (server, _))| *server == name);
            let (id, (_, sum)) =
                of.max_by_key(|(_, (_, sum))| sum.last_millis).ok_or(Error::NoServer(name))?;
            Ok(total(*sum, recent.server(*id, now)))
        }
        (GetUsage::Node(node), _) => {
            let sum = totals.nodes.get(&node).map(|of| of.sum);
            let rate = recent.node(&node, now);
            Ok(total(sum.ok_or(Error::NoNode(node))?, rate))
        }
        (GetUsage::User(_), Some(id)) => {
            Ok(total(totals.users.get(&id).copied().unwrap_or(Sum::default()), recent.user(id, now)))
        }
        (GetUsage::User(name), None) => Err(Error::NoUser(name)),
    }
}
