//! Rates: what was sent and received in the last seconds, by when it came here.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use contract::{
    NodeName,
    fleet::ServerId,
    stats::RATE_OVER_SECONDS,
    usage::{Traffic, UsageV1},
    users::UserId,
};

/// Rates are over so long.
const OVER: Duration = Duration::from_secs(RATE_OVER_SECONDS as u64);

/// What came in the last seconds.
#[derive(Debug, Default)]
pub struct Recent {
    came: VecDeque<Came>,
    users: HashMap<UserId, Traffic>,
    servers: HashMap<ServerId, Traffic>,
    nodes: HashMap<NodeName, Traffic>,
}

#[derive(Debug)]
struct Came {
    at: Instant,
    usage: UsageV1,
    /// What this message covers is longer than what rates are over: only this part of it counts.
    share: f64,
}

impl Recent {
    /// Takes a message in that came now.
    pub fn take(&mut self, usage: UsageV1, now: Instant) {
        self.forget(now);
        let covers = usage.until_millis.saturating_sub(usage.from_millis).max(1) as f64;
        let share = (OVER.as_millis() as f64 / covers).min(1.0);
        let came = Came { at: now, usage, share };
        self.apply(&came, |of, more| *of += more);
        self.came.push_back(came);
    }

    /// A user's, in bytes a second.
    pub fn user(&mut self, user: UserId, now: Instant) -> Traffic {
        self.forget(now);
        rate(self.users.get(&user))
    }

    /// A server's, in bytes a second.
    pub fn server(&mut self, server: ServerId, now: Instant) -> Traffic {
        self.forget(now);
        rate(self.servers.get(&server))
    }

    /// A node's, in bytes a second.
    pub fn node(&mut self, node: &NodeName, now: Instant) -> Traffic {
        self.forget(now);
        rate(self.nodes.get(node))
    }

    fn forget(&mut self, now: Instant) {
        while self.came.front().is_some_and(|came| now.duration_since(came.at) > OVER) {
            if let Some(came) = self.came.pop_front() {
                self.apply(&came, |of, less| *of = of.since(less));
            }
        }
        if self.came.is_empty() {
            self.users.clear();
            self.servers.clear();
            self.nodes.clear();
        }
    }

    fn apply(&mut self, came: &Came, change: impl Fn(&mut Traffic, Traffic)) {
        let part = |bytes: u64| (bytes as f64 * came.share) as u64;
        let node = self.nodes.entry(came.usage.node.clone()).or_default();
        for server in &came.usage.servers {
            let through = self.servers.entry(server.server_id).or_default();
            for entry in &server.users {
                let traffic = Traffic { up: part(entry.traffic.up), down: part(entry.traffic.down) };
                change(self.users.entry(entry.user).or_default(), traffic);
                change(through, traffic);
                change(node, traffic);
            }
        }
    }
}

fn rate(sum: Option<&Traffic>) -> Traffic {
    let Traffic { up, down } = sum.copied().unwrap_or_default();
    let seconds = u64::from(RATE_OVER_SECONDS);
    Traffic { up: up / seconds, down: down / seconds }
}
