//! Opens what is sealed to this node.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use contract::{
    Protocol, UserName,
    fleet::Server,
    keys::{Credentials, Grant, Sealed, ServerKeys},
};
use seal::{CurveKey, Error, SealingKey};
use zeroize::Zeroizing;

use crate::{
    desired::Desired,
    engine::{EngineUser, ServerSecret, UserSecret},
};

/// The node's own key pair, and the delivery keys that were boxed to it.
pub(crate) struct Opener {
    node: CurveKey,
    delivery: BTreeMap<Protocol, SealingKey>,
}

impl Opener {
    /// One that opens nothing yet.
    pub(crate) fn new(node: CurveKey) -> Self {
        Self { node, delivery: BTreeMap::new() }
    }

    /// Takes the delivery keys out of a grant; those of an earlier one are gone. Returns the protocols for which
    /// that makes a difference. A box that does not open is reported and left out: it is for another key of this
    /// node, and a new grant is on its way.
    pub(crate) fn take(&mut self, grant: Option<&Grant>) -> BTreeSet<Protocol> {
        let mut taken = BTreeMap::new();
        for (protocol, sealed) in grant.iter().flat_map(|grant| &grant.boxes) {
            let sender = grant.map_or("", |grant| &grant.sender);
            match self.node.open(sealed, sender).and_then(|key| SealingKey::from_slice(&key)) {
                Ok(key) => drop(taken.insert(*protocol, key)),
                Err(error) => tracing::warn!(%protocol, %error, "a delivery key does not open yet"),
            }
        }
        let bytes = |keys: &BTreeMap<Protocol, SealingKey>, protocol| {
            keys.get(&protocol).map(|key| Zeroizing::new(key.as_bytes().to_vec()))
        };
        let differs = |protocol: &Protocol| bytes(&taken, *protocol) != bytes(&self.delivery, *protocol);
        let changed = Protocol::ALL.into_iter().filter(differs).collect();
        self.delivery = taken;
        changed
    }

    /// A server's own secret.
    pub(crate) fn server(&self, server: &Server, keys: &ServerKeys) -> Result<ServerSecret, Error> {
        self.key(server.protocol)?.open(&keys.private, &Sealed::of_server(server.id, server.protocol))
    }

    /// A user as an engine of `protocol` needs it.
    pub(crate) fn user(
        &self,
        name: &UserName,
        credentials: &Credentials,
        protocol: Protocol,
    ) -> Result<EngineUser, Error> {
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

    /// A user who may connect, as an engine of `protocol` needs it; none who may not, or cannot be opened.
    pub(crate) fn access(
        &self,
        desired: &Desired,
        name: &UserName,
        protocol: Protocol,
    ) -> Option<EngineUser> {
        let credentials = desired.access(name)?;
        let opened = self.user(name, credentials, protocol);
        opened.inspect_err(|error| tracing::warn!(user = %name, %protocol, %error, "stays out")).ok()
    }

    fn key(&self, protocol: Protocol) -> Result<&SealingKey, Error> {
        self.delivery.get(&protocol).ok_or(Error::NotOpened)
    }
}
