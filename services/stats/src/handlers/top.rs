use std::{cmp::Reverse, sync::Arc, time::Instant};

use contract::{
    stats::{By, Kind, PAGE_MAX, Ranked, Ranking, Top},
    usage::Traffic,
};

use super::total;
use crate::{Counted, Ctx, Error, fold::Sum};

/// Rows where nothing else is asked for.
const LIMIT: u32 = 10;

/// Reads who used most.
pub(crate) async fn top(ctx: Arc<Ctx>, request: Top) -> Result<Ranking, Error> {
    let now = Instant::now();
    let mut counted = ctx.counted();
    let Counted { totals, recent } = &mut *counted;
    match request.of {
        Kind::Users => {
            let all = totals.users.iter().map(|(id, sum)| (*id, *sum, recent.user(*id, now))).collect();
            Ok(rank(all, &request, |id| match ctx.names.name(id) {
                Some(name) => (name.to_string(), false),
                None => (id.0.to_string(), true),
            }))
        }
        Kind::Servers => {
            let servers = totals.servers.iter();
            let all =
                servers.map(|(id, (name, sum))| (name.clone(), *sum, recent.server(*id, now))).collect();
            Ok(rank(all, &request, |name| (name.to_string(), false)))
        }
        Kind::Nodes => {
            let nodes = totals.nodes.iter();
            let all = nodes.map(|(name, of)| (name.clone(), of.sum, recent.node(name, now))).collect();
            Ok(rank(all, &request, |name| (name.to_string(), false)))
        }
    }
}

/// The page that is asked for. Only as much is put in order as is shown.
fn rank<I: Ord + Clone>(
    mut all: Vec<(I, Sum, Traffic)>,
    request: &Top,
    name: impl Fn(I) -> (String, bool),
) -> Ranking {
    let (offset, limit) = (request.offset as usize, request.limit.unwrap_or(LIMIT).min(PAGE_MAX) as usize);
    let key = |(id, sum, rate): &(I, Sum, Traffic)| {
        let first = match request.by {
            By::Total => sum.traffic.sum(),
            By::Rate => rate.sum(),
        };
        (Reverse(first), id.clone())
    };
    let shown = offset.saturating_add(limit);
    let count = all.len() as u64;
    if shown < all.len() {
        all.select_nth_unstable_by_key(shown, key);
        all.truncate(shown);
    }
    all.sort_unstable_by_key(key);
    let rows = all.into_iter().skip(offset).map(|(id, sum, rate)| {
        let (name, gone) = name(id);
        Ranked { name, gone, total: total(sum, rate) }
    });
    Ranking { rows: rows.collect(), total: count }
}
