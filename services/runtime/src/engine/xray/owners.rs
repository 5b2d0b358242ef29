//! Whose connections there are, by the address at the other end.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Instant,
};

use super::{access_log::Accepted, files};
use crate::backend::Error;

/// Addresses are forgotten when their connection has ended, and that is looked up when there are so many more of
/// them than at the last time: seldom enough to cost nothing, often enough to hold little.
const SLACK: usize = 1024;
/// However many connections there are: 100 bytes each, so 25 MB.
const MOST: usize = 256 * 1024;

/// Whose connections there are.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_peer: HashMap<SocketAddr, Owner>,
    /// So that 10,000 connections of one user hold one name.
    names: HashSet<Arc<str>>,
    tidy_at: usize,
}

#[derive(Debug)]
struct Owner {
    name: Arc<str>,
    seen: Instant,
}

impl Owners {
    /// Takes what the access log says. An address that somebody else had before has a new owner.
    pub(super) fn insert(&mut self, accepted: &Accepted<'_>) -> Arc<str> {
        let name = match self.names.get(accepted.user) {
            Some(name) => Arc::clone(name),
            None => {
                let name = Arc::from(accepted.user);
                self.names.insert(Arc::clone(&name));
                name
            }
        };
        if self.by_peer.len() < MOST || self.by_peer.contains_key(&accepted.peer) {
            self.by_peer.insert(accepted.peer, Owner { name: Arc::clone(&name), seen: Instant::now() });
        }
        name
    }

    pub(super) fn of(&self, peer: &SocketAddr) -> Option<&str> {
        self.by_peer.get(peer).map(|owner| &*owner.name)
    }

    /// Whether anybody of whom this is true has, or may have, a connection.
    pub(super) fn any(&self, whom: impl Fn(&str) -> bool) -> bool {
        self.by_peer.len() >= MOST || self.by_peer.values().any(|owner| whom(&owner.name))
    }

    /// Whether it is time for [`Self::keep`].
    pub(super) fn are_many(&self) -> bool {
        self.by_peer.len() > self.tidy_at + SLACK
    }

    /// Forgets everybody but these: the connections that there were at that time.
    pub(super) fn keep(&mut self, peers: &HashSet<SocketAddr>, at: Instant) {
        self.by_peer.retain(|peer, owner| peers.contains(peer) || owner.seen >= at);
        self.names.retain(|name| Arc::strong_count(name) > 1);
        self.tidy_at = 2 * self.by_peer.len();
    }

    /// What an earlier agent wrote by [`Self::write`].
    pub(super) fn read(path: &Path) -> Self {
        let mut owners = Self::default();
        let text = match files::open(path) {
            Ok(Some(file)) => std::io::read_to_string(file).unwrap_or_default(),
            _ => String::new(),
        };
        for line in text.lines() {
            if let Some((peer, user)) = line.split_once(' ')
                && let Ok(peer) = peer.parse()
            {
                owners.insert(&Accepted { peer, user });
            }
        }
        owners
    }

    /// Writes down who is there, for an agent that is started anew.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        use std::fmt::Write as _;
        let mut text = String::new();
        for (peer, owner) in &self.by_peer {
            let _ = writeln!(text, "{peer} {}", owner.name);
        }
        files::replace(path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(port: u16, user: &str) -> Accepted<'_> {
        Accepted { peer: SocketAddr::from(([192, 0, 2, 1], port)), user }
    }

    #[test]
    fn the_last_owner_counts_and_the_dead_are_forgotten() {
        let mut owners = Owners::default();
        for (port, user) in [(1, "alice"), (2, "alice"), (1, "bob"), (3, "carol")] {
            owners.insert(&accepted(port, user));
        }
        assert_eq!(owners.of(&accepted(1, "").peer), Some("bob"));

        let listed_at = Instant::now();
        owners.insert(&accepted(4, "late"));
        owners.keep(&[accepted(1, "").peer].into(), listed_at);
        let left = [1, 2, 3, 4].map(|port| owners.of(&accepted(port, "").peer));
        assert_eq!(left, [Some("bob"), None, None, Some("late")]);
        assert_eq!(owners.names.len(), 2, "names without connections are forgotten");
    }

    #[test]
    fn an_agent_that_starts_anew_knows_what_the_last_one_knew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("sessions");
        let mut owners = Owners::default();
        owners.insert(&accepted(1, "alice"));
        owners.insert(&Accepted { peer: "[2001:db8::1]:2".parse().unwrap(), user: "bob" });
        owners.write(&path).unwrap();
        let read = Owners::read(&path);
        assert_eq!(read.of(&accepted(1, "").peer), Some("alice"));
        assert_eq!(read.of(&"[2001:db8::1]:2".parse().unwrap()), Some("bob"));
    }

    #[test]
    fn there_is_an_end_to_how_many_are_remembered() {
        let mut owners = Owners::default();
        for port in 0..=u16::MAX {
            for host in 0..5 {
                owners.insert(&Accepted { peer: SocketAddr::from(([192, 0, 2, host], port)), user: "alice" });
            }
        }
        assert_eq!(owners.by_peer.len(), MOST);
        assert!(owners.any(|name| name == "bob"), "somebody may be among those who had no room");
    }
}
