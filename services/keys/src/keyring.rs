//! What the master key gives: the keys that seal and open, derived once.

use contract::{
    Protocol,
    keys::{Credentials, Sealed, ServerKeys, ServerPublic},
};
use seal::{CurveKey, MasterKey, SealingKey};

use crate::{Config, Error};

/// The sealing keys. Wiped when dropped.
pub struct Keyring {
    vless_reality: SealingKey,
    shadowsocks_2022: SealingKey,
    wireguard: SealingKey,
    private: SealingKey,
    curve: CurveKey,
}

impl Keyring {
    /// Reads the master key. Refuses one that does not open what was sealed before, of which samples are given:
    /// with another key everything new would be lost to whoever holds the right one.
    pub fn open(
        config: &Config,
        credentials: Option<&Credentials>,
        server: Option<&ServerKeys>,
    ) -> Result<Self, Error> {
        let first_start = credentials.is_none() && server.is_none();
        let master = if config.create_master_key && first_start {
            MasterKey::load_or_create(&config.master_key_file)?
        } else {
            MasterKey::load(&config.master_key_file)?
        };
        let keyring = Self::of(&master);
        if let Some(of) = credentials {
            let bound_to = Sealed::of_user_alone(of.user_id, of.generation);
            keyring.private.open(&of.wireguard.private_key, &bound_to)?;
        }
        if let Some(of) = server {
            let protocol = protocol_of(&of.public);
            keyring.delivery(protocol).open(&of.private, &Sealed::of_server(of.server_id, protocol))?;
        }
        Ok(keyring)
    }

    /// The keys that this master key gives.
    pub fn of(master: &MasterKey) -> Self {
        Self {
            vless_reality: master.delivery(Protocol::VlessReality),
            shadowsocks_2022: master.delivery(Protocol::Shadowsocks2022),
            wireguard: master.delivery(Protocol::Wireguard),
            private: master.private(),
            curve: master.curve(),
        }
    }

    /// Seals what the nodes that serve `protocol` open.
    pub fn delivery(&self, protocol: Protocol) -> &SealingKey {
        match protocol {
            Protocol::VlessReality => &self.vless_reality,
            Protocol::Shadowsocks2022 => &self.shadowsocks_2022,
            Protocol::Wireguard => &self.wireguard,
        }
    }

    /// Seals what nobody else opens.
    pub fn private(&self) -> &SealingKey {
        &self.private
    }

    /// Makes boxes for nodes.
    pub fn curve(&self) -> &CurveKey {
        &self.curve
    }
}

/// Which protocol a server's keys are for.
pub fn protocol_of(public: &ServerPublic) -> Protocol {
    match public {
        ServerPublic::VlessReality { .. } => Protocol::VlessReality,
        ServerPublic::Shadowsocks2022 => Protocol::Shadowsocks2022,
        ServerPublic::Wireguard { .. } => Protocol::Wireguard,
    }
}
