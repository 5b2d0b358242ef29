//! Totals as a fold over the stream of usage. Whatever comes twice is counted once: by its position in the stream where
//! the stream delivers it again, by the node's own number where the node has sent it again.

use std::collections::{BTreeMap, HashMap, HashSet};

use bus::reader::Position;
use contract::{
    NodeName, ServerName,
    fleet::ServerId,
    usage::{Traffic, UsageV1},
    users::UserId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A node's journals that are remembered: one is made anew where the node's disk was lost.
const BOOTS_MAX: usize = 64;

/// Totals, and how far the stream was folded into them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// By user.
    pub users: HashMap<UserId, Sum>,
    /// By server, with the name it had last.
    pub servers: HashMap<ServerId, (ServerName, Sum)>,
    /// By node.
    pub nodes: BTreeMap<NodeName, NodeSum>,
    /// Up to here the stream is in the totals.
    pub position: Position,
    /// What changed since it was kept last.
    changed: Changed,
    /// The position that was kept last.
    kept: Position,
}

/// What was sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    /// In all.
    pub traffic: Traffic,
    /// When last, in milliseconds since 1970 UTC, by the node's clock.
    pub last_millis: i64,
}

/// What a node's users sent and received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSum {
    /// In all.
    pub sum: Sum,
    /// By the node's journal: the last number that was counted.
    pub boots: BTreeMap<Uuid, u64>,
}

/// Whose totals changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    users: HashSet<UserId>,
    servers: HashSet<ServerId>,
    nodes: HashSet<NodeName>,
}

/// What is to be kept together.
#[derive(Debug)]
pub struct Changes {
    /// Users' totals.
    pub users: Vec<(UserId, Sum)>,
    /// Servers' totals.
    pub servers: Vec<(ServerId, ServerName, Sum)>,
    /// Nodes' totals.
    pub nodes: Vec<(NodeName, NodeSum)>,
    /// The position that they belong to.
    pub position: Position,
    /// Whose they are.
    pub changed: Changed,
}

impl Sum {
    fn add(&mut self, traffic: Traffic, at: i64) {
        self.traffic += traffic;
        self.last_millis = self.last_millis.max(at);
    }
}

impl Totals {
    /// What was kept.
    pub fn kept(
        users: HashMap<UserId, Sum>,
        servers: HashMap<ServerId, (ServerName, Sum)>,
        nodes: BTreeMap<NodeName, NodeSum>,
        position: Position,
    ) -> Self {
        Self { users, servers, nodes, position, changed: Changed::default(), kept: position }
    }

    /// What is to be kept, if anything is.
    pub fn take_changes(&mut self) -> Option<Changes> {
        if self.position == self.kept {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        self.kept = self.position;
        let users = changed.users.iter().filter_map(|id| Some((*id, *self.users.get(id)?)));
        let servers = changed.servers.iter().filter_map(|id| {
            let (name, sum) = self.servers.get(id)?;
            Some((*id, name.clone(), *sum))
        });
        let nodes =
            changed.nodes.iter().filter_map(|node| Some((node.clone(), self.nodes.get(node)?.clone())));
        let (users, servers, nodes) = (users.collect(), servers.collect(), nodes.collect());
        Some(Changes { users, servers, nodes, position: self.position, changed })
    }

    /// What could not be kept is to be kept with what follows.
    pub fn put_back(&mut self, changed: &Changed) {
        self.changed.users.extend(&changed.users);
        self.changed.servers.extend(&changed.servers);
        self.changed.nodes.extend(changed.nodes.iter().cloned());
        self.kept = Position::default();
    }

    /// Counts a message; false where it was counted before.
    pub fn count(&mut self, usage: &UsageV1) -> bool {
        let node = self.nodes.entry(usage.node.clone()).or_default();
        let counted = node.boots.entry(usage.boot).or_default();
        if usage.sequence <= *counted {
            return false;
        }
        *counted = usage.sequence;
        while node.boots.len() > BOOTS_MAX {
            node.boots.pop_first();
        }
        let at = usage.until_millis;
        for server in &usage.servers {
            let mut through = Traffic::NONE;
            for entry in &server.users {
                self.users.entry(entry.user).or_default().add(entry.traffic, at);
                self.changed.users.insert(entry.user);
                through += entry.traffic;
            }
            let of = self.servers.entry(server.server_id);
            let (name, sum) = of.or_insert_with(|| (server.server.clone(), Sum::default()));
            name.clone_from(&server.server);
            sum.add(through, at);
            self.changed.servers.insert(server.server_id);
            node.sum.add(through, at);
        }
        self.changed.nodes.insert(usage.node.clone());
        true
    }
}
