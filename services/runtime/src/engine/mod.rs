//! The VPN programs. One trait, [`Engine`]; behind it:
//!
//! - [`xray`]       VLESS+REALITY and Shadowsocks 2022
//! - [`wireguard`]  WireGuard
//!
//! Adding and removing users never restarts an engine: the live API first, then the file that the engine
//! reads at its next start, and a comparison whenever it has started.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use contract::{ImageRef, UserName, WireguardAddress, fleet::Server};
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

impl std::fmt::Debug for EngineUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EngineUser({}, secret)", self.name)
    }
}

/// The engine of one instance. Its files are in the instance's run directory.
#[async_trait]
pub trait Engine: Send + Sync {
    /// How to run it. `inside` is the run directory as the instance sees it.
    fn launch(&self, inside: &Path) -> Launch;

    /// Writes what the engine reads when it starts, with these users; removes what an earlier run left in the
    /// way. Files are readable by their owner alone.
    async fn prepare(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error>;

    /// Waits until the engine answers on its control socket, at most until the deadline.
    async fn ready(&self, deadline: tokio::time::Instant) -> Result<(), Error>;

    /// Brings a running engine's users to exactly these, whatever it had. Returns who was added and removed.
    async fn converge(&self, users: &[EngineUser]) -> Result<Converged, Error>;

    /// Adds users, replacing what was there under their names, in parallel where that is faster.
    async fn add(&self, users: &[EngineUser]) -> Result<(), Error>;

    /// Removes users and ends their open sessions.
    ///
    /// `pid` is the instance's first process, whose network namespace holds the sessions' sockets.
    async fn remove(&self, users: &[UserName], pid: u32) -> Result<(), Error>;

    /// Brings the file that the engine starts from up to date. Called once within a second of a change.
    async fn save(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error>;
}

/// What [`Engine::converge`] changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Converged {
    /// So many users were added or replaced.
    pub added: usize,
    /// So many were removed.
    pub removed: usize,
}
