//! What the rest of the house wants of this node, as one value that is folded from the bus and kept on disk for
//! when the bus is away. Private parts in it are sealed.

use std::collections::BTreeMap;

use bus::Change;
use contract::{
    NodeName, Protocol, ServerName, UserName,
    fleet::Server,
    keys::{Credentials, Grant, ServerKeys},
    users::{User, UserId},
};
use serde::{Deserialize, Serialize};

/// What is wanted of one node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Desired {
    /// Servers of this node.
    pub servers: BTreeMap<ServerName, Server>,
    /// Their keys.
    pub server_keys: BTreeMap<ServerName, ServerKeys>,
    /// Users that may connect.
    pub active: BTreeMap<UserName, UserId>,
    /// What they prove themselves with.
    pub credentials: BTreeMap<UserName, Credentials>,
    /// What opens the private parts.
    pub grant: Option<Grant>,
}

impl Desired {
    /// Takes in a change of a server.
    pub fn server(&mut self, node: &NodeName, change: Change<Server>) {
        let Ok(name) = change.key.parse::<ServerName>() else { return };
        match change.entry.value.filter(|server| server.node == *node) {
            Some(server) => self.servers.insert(name, server),
            None => self.servers.remove(&name),
        };
    }

    /// Takes in a change of a server's keys.
    pub fn server_keys(&mut self, change: Change<ServerKeys>) {
        let Ok(name) = change.key.parse::<ServerName>() else { return };
        match change.entry.value {
            Some(keys) => self.server_keys.insert(name, keys),
            None => self.server_keys.remove(&name),
        };
    }

    /// Takes in a change of a user; returns whose access is to be looked at.
    pub fn user(&mut self, change: Change<User>) -> Option<UserName> {
        let name = change.key.parse::<UserName>().ok()?;
        match change.entry.value.filter(User::is_active) {
            Some(user) => self.active.insert(name.clone(), user.id),
            None => self.active.remove(&name),
        };
        Some(name)
    }

    /// Takes in a change of credentials; returns whose access is to be looked at.
    pub fn credentials(&mut self, change: Change<Credentials>) -> Option<UserName> {
        let name = change.key.parse::<UserName>().ok()?;
        match change.entry.value {
            Some(credentials) => self.credentials.insert(name.clone(), credentials),
            None => self.credentials.remove(&name),
        };
        Some(name)
    }

    /// The credentials of a user who may connect; those of an earlier user of the name do not count.
    pub fn access(&self, name: &UserName) -> Option<&Credentials> {
        let id = self.active.get(name)?;
        self.credentials.get(name).filter(|credentials| credentials.user_id == *id)
    }

    /// Whether a server of this node speaks the protocol.
    pub fn serves(&self, protocol: Protocol) -> bool {
        self.servers.values().any(|server| server.protocol == protocol)
    }
}
