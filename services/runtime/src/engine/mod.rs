//! The VPN programs. One trait, [`Engine`]; behind it:
//!
//! - [`xray`]       VLESS+REALITY and Shadowsocks 2022
//! - [`wireguard`]  WireGuard
//!
//! and for both [`private`], the destinations that users are kept from.
//!
//! Adding and removing users never restarts an engine: the live API first, then the file that the engine
//! reads at its next start, and a comparison whenever it has started.

#[cfg(test)]
pub(crate) mod fake;
pub mod private;
pub mod wireguard;
pub mod xray;

use std::path::PathBuf;

use async_trait::async_trait;
use contract::{ImageRef, UserName, WireguardAddress, fleet::Server, usage::Traffic, users::UserId};
use zeroize::Zeroizing;

use crate::backend::{Error, Rights};

/// How an engine is to be run: what a [`crate::backend::Spec`] needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The image where the server names none.
    pub image: ImageRef,
    /// The program, for child processes.
    pub program: PathBuf,
    /// Arguments; paths in them are as the instance sees them.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// What it may do.
    pub rights: Rights,
}

/// A server's private key (REALITY and WireGuard: x25519, 32 bytes) or pre-shared key (Shadowsocks 2022: 16 bytes).
pub type ServerSecret = Zeroizing<Vec<u8>>;

/// A server as its engine needs it.
#[derive(Clone)]
pub struct EngineServer {
    /// The desired state.
    pub server: Server,
    /// What clients must know.
    pub public: contract::keys::ServerPublic,
    /// What they must not.
    pub secret: ServerSecret,
    /// Further destinations to keep out of users' reach: the node's own addresses.
    pub own_addresses: Vec<std::net::IpAddr>,
}

/// A user as an engine needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUser {
    /// Who.
    pub name: UserName,
    /// Who, for all time.
    pub id: UserId,
    /// What it proves itself with.
    pub secret: UserSecret,
}

/// What a user proves itself with.
#[derive(Clone, PartialEq, Eq)]
pub enum UserSecret {
    /// The UUID's 16 bytes.
    VlessReality(Zeroizing<[u8; 16]>),
    /// The user's key.
    Shadowsocks2022(Zeroizing<[u8; 16]>),
    /// The peer.
    Wireguard {
        /// x25519.
        public_key: [u8; 32],
        /// Shared with the server.
        preshared_key: Zeroizing<[u8; 32]>,
        /// Inside the tunnel.
        address: WireguardAddress,
    },
}

impl UserSecret {
    /// The key of Shadowsocks 2022.
    pub fn shadowsocks(&self) -> Option<&[u8; 16]> {
        match self {
            Self::Shadowsocks2022(key) => Some(key),
            Self::VlessReality(_) | Self::Wireguard { .. } => None,
        }
    }
}

impl std::fmt::Debug for EngineUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EngineUser({}, secret)", self.name)
    }
}

/// The engine of one instance. Its files are in the instance's run directory, which it is made with twice: the
/// path by which we know it, and the path by which the instance does, because both stand in those files.
///
/// `pid` is the instance's first process, whose network namespace holds the sessions' sockets. Whoever loses
/// access loses open sessions too, so every call that can take access away has it.
#[async_trait]
pub trait Engine: Send + Sync {
    /// How to run it.
    fn launch(&self) -> Launch;

    /// Writes what the engine reads when it starts, with these users; removes what an earlier run left in the
    /// way. Files are readable by their owner alone.
    async fn prepare(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error>;

    /// Waits until the engine answers on its control socket, at most until the deadline.
    async fn ready(&self, deadline: tokio::time::Instant) -> Result<(), Error>;

    /// Brings a running engine's users to exactly these, whatever it had, and ends the sessions of everybody
    /// else. Called whenever the engine has started or was found running. Returns how many changed.
    async fn converge(&self, users: &[EngineUser], pid: u32) -> Result<Converged, Error>;

    /// Adds users, in parallel where that is faster. Who is there with another secret gets the new one, and
    /// the sessions opened with the old one end.
    async fn add(&self, users: &[EngineUser], pid: u32) -> Result<(), Error>;

    /// Removes users and ends their open sessions.
    async fn remove(&self, users: &[UserName], pid: u32) -> Result<(), Error>;

    /// Users will come with these secrets, and with none that was expected before and is not among these. An engine
    /// that takes long to let somebody in can know them before, which [`Self::learn`] sees to; to others it means
    /// nothing.
    async fn expect(&self, _coming: &[UserSecret], _pid: u32) -> Result<(), Error> {
        Ok(())
    }

    /// Gets to know one of those who are expected; false where it knows all of them.
    async fn learn(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// What users have sent and received since the engine started, older readings first. Entries that nobody ever used
    /// may be missing. Who left since the last call is among them, with the last that was read where the engine still
    /// knows it.
    async fn usage(&self) -> Result<Vec<Reading>, Error>;

    /// Brings the file that the engine starts from up to date. Called once within a second of a change.
    async fn save(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error>;
}

/// A counter of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What the engine counts under: one user at a time.
    pub entry: String,
    /// Whose it is; none where that is not known any more.
    pub user: Option<UserId>,
    /// What it stands at.
    pub traffic: Traffic,
    /// The engine may have begun it anew: where it reads less than before, all of it is new. Without this, less than
    /// before is an old reading.
    pub falls: bool,
    /// The engine forgets this counter: an entry of that name counts from nothing.
    pub ends: bool,
}

/// What [`Engine::converge`] changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Converged {
    /// So many users were added or replaced.
    pub added: usize,
    /// So many were removed.
    pub removed: usize,
}
