//! What the rest of the house wants of this node, as one value that is folded from the bus and kept on disk for
//! when the bus is away. Private parts in it are sealed.

use std::{collections::BTreeMap, sync::Arc};

use bus::Change;
use contract::{
    NodeName, Protocol, ServerName, UserName,
    fleet::Server,
    keys::{Credentials, Grant, Prekeys, ServerKeys},
    users::{User, UserId},
};
use serde::{Deserialize, Serialize};

/// What is wanted of one node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Desired {
    /// Servers of this node.
    pub(crate) servers: BTreeMap<ServerName, Server>,
    /// Keys of servers, those of other nodes too: keys may be there before their server.
    pub(crate) server_keys: BTreeMap<ServerName, ServerKeys>,
    /// Users that may connect.
    pub(crate) active: BTreeMap<UserName, UserId>,
    /// What they prove themselves with; shared with the copy that goes to disk.
    pub(crate) credentials: BTreeMap<UserName, Arc<Credentials>>,
    /// What opens the private parts.
    pub(crate) grant: Option<Grant>,
    /// What the next users will prove themselves with, where that is known. Not kept: while the bus is away nobody
    /// comes.
    #[serde(skip)]
    pub(crate) prekeys: Option<Option<Prekeys>>,
}

impl Desired {
    /// Takes in a change of a server.
    pub(crate) fn server(&mut self, node: &NodeName, change: Change<Server>) {
        let Ok(name) = change.key.parse::<ServerName>() else { return };
        match change.entry.value.filter(|server| server.node == *node) {
            Some(server) => self.servers.insert(name, server),
            None => self.servers.remove(&name),
        };
    }

    /// Takes in a change of a server's keys.
    pub(crate) fn server_keys(&mut self, change: Change<ServerKeys>) {
        let Ok(name) = change.key.parse::<ServerName>() else { return };
        match change.entry.value {
            Some(keys) => self.server_keys.insert(name, keys),
            None => self.server_keys.remove(&name),
        };
    }

    /// Takes in a change of a user; returns whose access is to be looked at.
    pub(crate) fn user(&mut self, change: Change<User>) -> Option<UserName> {
        let name = change.key.parse::<UserName>().ok()?;
        match change.entry.value.filter(User::is_active) {
            Some(user) => self.active.insert(name.clone(), user.id),
            None => self.active.remove(&name),
        };
        Some(name)
    }

    /// Takes in a change of credentials; returns whose access is to be looked at.
    pub(crate) fn credentials(&mut self, change: Change<Credentials>) -> Option<UserName> {
        let name = change.key.parse::<UserName>().ok()?;
        match change.entry.value {
            Some(credentials) => self.credentials.insert(name.clone(), Arc::new(credentials)),
            None => self.credentials.remove(&name),
        };
        Some(name)
    }

    /// Nobody may connect, and nobody is known.
    pub(crate) fn forget_users(&mut self) {
        (self.active, self.credentials, self.prekeys) = (BTreeMap::new(), BTreeMap::new(), None);
    }

    /// The credentials of a user who may connect; those of an earlier user of the name do not count.
    pub(crate) fn access(&self, name: &UserName) -> Option<&Credentials> {
        let id = self.active.get(name)?;
        self.credentials.get(name).map(Arc::as_ref).filter(|credentials| credentials.user_id == *id)
    }

    /// The servers of this node that speak the protocol.
    pub(crate) fn serving(&self, protocol: Protocol) -> impl Iterator<Item = &ServerName> {
        self.servers.iter().filter(move |(_, server)| server.protocol == protocol).map(|(name, _)| name)
    }

    /// Whether a server of this node speaks the protocol.
    pub(crate) fn serves(&self, protocol: Protocol) -> bool {
        self.serving(protocol).next().is_some()
    }
}
