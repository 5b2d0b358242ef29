//! Which nodes are heard. Only changes are stored; when a node was heard last is kept in memory.
//!
//! A node is lost when this replica could have heard it for the whole time and did not. Silence that is this
//! replica's own (it just started, it slept, the bus was away) proves nothing: then everybody counts as heard.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::overhear::Overheard;
use contract::{
    NodeName, Timestamp,
    fleet::{Announce, Node, NodeEvent, Presence},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument, info_span};

use crate::Ctx;

/// How often silence is looked for, in parts of the time after which a node is lost: often enough to add little
/// to it.
const LOOKS: u32 = 7;

/// What a node's state becomes when its agent announces itself; none where nothing changes.
pub fn announced(node: Option<&Node>, announce: &Announce, now: Timestamp) -> Option<(Node, NodeEvent)> {
    let announced = announce.clone();
    let Some(node) = node else {
        return Some((Node { announced, presence: Presence::Online, joined_at: now }, NodeEvent::Joined));
    };
    let event = match node.presence {
        Presence::Lost { .. } => NodeEvent::Returned,
        Presence::Online if node.announced != *announce => NodeEvent::Changed,
        Presence::Online => return None,
    };
    Some((Node { announced, presence: Presence::Online, joined_at: node.joined_at }, event))
}

/// What a node's state becomes when it is not heard any more; none where that is known.
pub fn lost(node: &Node, now: Timestamp) -> Option<(Node, NodeEvent)> {
    let lost = Node { presence: Presence::Lost { since: now }, ..node.clone() };
    (node.presence == Presence::Online).then_some((lost, NodeEvent::Lost))
}

/// When each node was heard last.
#[derive(Debug)]
pub struct Heard {
    lost_after: Duration,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    /// Since when this replica hears at all.
    since: Instant,
    by_node: HashMap<NodeName, Instant>,
}

impl Heard {
    /// Hears from `now` on.
    pub fn new(lost_after: Duration, now: Instant) -> Self {
        Self { lost_after, last: Mutex::new(Last { since: now, by_node: HashMap::new() }) }
    }

    /// This node was heard.
    pub fn node(&self, node: &NodeName, now: Instant) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.by_node.get_mut(node) {
            Some(at) => *at = now,
            None => {
                last.by_node.insert(node.clone(), now);
            }
        }
    }

    /// Nobody could be heard until now.
    pub fn deaf_until(&self, now: Instant) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).since = now;
    }

    /// A pause of this replica's own, after which silence proves nothing. An agent announces itself more often.
    fn too_long(&self) -> Duration {
        self.lost_after / 2
    }

    /// Whether the node was silent for too long.
    pub fn misses(&self, node: &NodeName, now: Instant) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = last.by_node.get(node).map_or(last.since, |at| last.since.max(*at));
        now.saturating_duration_since(at) >= self.lost_after
    }
}

/// Hears every announcement, also those that another replica answers. Only nodes that are there are kept in
/// mind, so that made-up names fill no memory.
pub(crate) async fn listen(ctx: Arc<Ctx>, mut announcements: Overheard<Announce>) {
    while let Some(announce) = announcements.next().await {
        if ctx.store.nodes().contains_key(announce.node.as_str()) {
            ctx.heard.node(&announce.node, Instant::now());
        }
    }
}

/// Looks for nodes that are silent, and stores that they are lost.
pub(crate) async fn watch(ctx: Arc<Ctx>) {
    let every = ctx.heard.lost_after / LOOKS;
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = ctx.bus.connection();
    let mut looked = Instant::now();
    loop {
        looks.tick().await;
        let (now, seen) = (Instant::now(), ctx.bus.connection());
        // A look that comes late means that this process slept: what was sent meanwhile is still to be read.
        let slept = now.duration_since(looked) > ctx.heard.too_long();
        if slept || seen.is_none() || seen != connection {
            ctx.heard.deaf_until(now);
            connection = seen;
        } else {
            lose_silent(&ctx, now).await;
        }
        looked = Instant::now();
    }
}

async fn lose_silent(ctx: &Ctx, now: Instant) {
    let silent: Vec<NodeName> = ctx
        .store
        .nodes()
        .values()
        .filter(|node| node.presence == Presence::Online && ctx.heard.misses(&node.announced.node, now))
        .map(|node| node.announced.node.clone())
        .collect();
    for name in silent {
        // The node is read before it is changed. That is also a round trip: a bus that is slow or away now may
        // have been so all the time.
        let (asked, connection) = (Instant::now(), ctx.bus.connection());
        let hears = || {
            let same = connection.is_some() && ctx.bus.connection() == connection;
            same && asked.elapsed() < ctx.heard.too_long()
        };
        let decide = |node: Option<&Node>| {
            let misses = hears() && ctx.heard.misses(&name, Instant::now());
            node.filter(|_| misses).and_then(|node| lost(node, Timestamp::now()))
        };
        let span = info_span!("lose", otel.name = "node lost", vpn.service = "fleet", vpn.sample = "always");
        match ctx.store.change_node(&name, decide).instrument(span).await {
            Ok(true) => tracing::warn!(node = %name, "the node is not heard any more"),
            // It is heard again, or another replica was first.
            Ok(false) if hears() => {}
            Ok(false) => return ctx.heard.deaf_until(Instant::now()),
            Err(error) => {
                tracing::warn!(%error, node = %name, "that the node is not heard could not be stored");
                return ctx.heard.deaf_until(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests;
