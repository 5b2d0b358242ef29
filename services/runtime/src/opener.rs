//! Opens what is sealed to this node.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use contract::{
    Protocol, UserName,
    fleet::Server,
    keys::{Credentials, Grant, Sealed, ServerKeys},
};
use seal::{CurveKey, Error, SealingKey};

use crate::engine::{EngineUser, ServerSecret, UserSecret};

/// The node's own key pair, and the delivery keys that were boxed to it.
pub struct Opener {
    node: CurveKey,
    delivery: BTreeMap<Protocol, SealingKey>,
}

impl Opener {
    /// One that opens nothing yet.
    pub fn new(node: CurveKey) -> Self {
        Self { node, delivery: BTreeMap::new() }
    }

    /// The node's public curve key.
    pub fn public(&self) -> String {
        self.node.public()
    }

    /// Takes the delivery keys out of a grant; those of an earlier one are gone. A box that does not open is
    /// reported and left out: it is for another key of this node, and a new grant is on its way.
    pub fn take(&mut self, grant: Option<&Grant>) {
        self.delivery.clear();
        let Some(grant) = grant else { return };
        for (protocol, sealed) in &grant.boxes {
            let opened = self.node.open(sealed, &grant.sender).and_then(|key| SealingKey::from_slice(&key));
            match opened {
                Ok(key) => drop(self.delivery.insert(*protocol, key)),
                Err(error) => tracing::warn!(%protocol, %error, "a delivery key does not open yet"),
            }
        }
    }

    /// A server's own secret.
    pub fn server(&self, server: &Server, keys: &ServerKeys) -> Result<ServerSecret, Error> {
        self.key(server.protocol)?.open(&keys.private, &Sealed::of_server(server.id, server.protocol))
    }

    /// A user as an engine of `protocol` needs it.
    pub fn user(&self, name: &UserName, credentials: &Credentials, protocol: Protocol) -> Result<EngineUser, Error> {
        let key = self.key(protocol)?;
        let bound_to = Sealed::of_user(credentials.user_id, credentials.generation, protocol);
        let secret = match protocol {
            Protocol::VlessReality => {
                UserSecret::VlessReality(key.open_exact(&credentials.vless_reality, &bound_to)?)
            }
            Protocol::Shadowsocks2022 => {
                UserSecret::Shadowsocks2022(key.open_exact(&credentials.shadowsocks_2022, &bound_to)?)
            }
            Protocol::Wireguard => {
                let wireguard = &credentials.wireguard;
                let mut public_key = [0; 32];
                match STANDARD.decode_slice(&wireguard.public_key, &mut public_key) {
                    Ok(32) => {}
                    _ => return Err(Error::NotAKey(wireguard.public_key.chars().take(64).collect())),
                }
                let preshared_key = key.open_exact(&wireguard.preshared_key, &bound_to)?;
                UserSecret::Wireguard { public_key, preshared_key, address: wireguard.address }
            }
        };
        Ok(EngineUser { name: name.clone(), secret })
    }

    fn key(&self, protocol: Protocol) -> Result<&SealingKey, Error> {
        self.delivery.get(&protocol).ok_or(Error::NotOpened)
    }
}
