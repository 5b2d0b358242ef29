//! Opens what is sealed to this node.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use contract::{
    Protocol, UserName,
    fleet::Server,
    keys::{Credentials, Grant, Prekeys, Sealed, ServerKeys},
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

    /// Takes the delivery keys out of a grant, and returns the protocols for which there is another key now. A box
    /// that does not open is reported, and what there was stays: a new grant is on its way, and meanwhile users must
    /// be let out.
    pub(crate) fn take(&mut self, grant: Option<&Grant>) -> BTreeSet<Protocol> {
        let mut changed = BTreeSet::new();
        self.delivery.retain(|protocol, _| grant.is_some_and(|grant| grant.boxes.contains_key(protocol)));
        for (protocol, sealed) in grant.iter().flat_map(|grant| &grant.boxes) {
            let sender = grant.map_or("", |grant| &grant.sender);
            match self.node.open(sealed, sender).and_then(|key| SealingKey::from_slice(&key)) {
                Ok(key)
                    if self
                        .delivery
                        .get(protocol)
                        .is_some_and(|known| known.as_bytes() == key.as_bytes()) => {}
                Ok(key) => {
                    self.delivery.insert(*protocol, key);
                    changed.insert(*protocol);
                }
                Err(error) => tracing::warn!(%protocol, %error, "a delivery key does not open yet"),
            }
        }
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
        Ok(EngineUser { name: name.clone(), id: credentials.user_id, secret })
    }

    /// What the next users of a protocol will come with.
    pub(crate) fn prekeys(&self, prekeys: &Prekeys) -> Result<Vec<UserSecret>, Error> {
        let all = self.key(prekeys.protocol)?.open(&prekeys.keys, &Sealed::of_prekeys(prekeys.protocol))?;
        let (keys, _) = all.as_chunks::<{ Prekeys::KEY }>();
        Ok(keys.iter().map(|key| UserSecret::Shadowsocks2022(Zeroizing::new(*key))).collect())
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
