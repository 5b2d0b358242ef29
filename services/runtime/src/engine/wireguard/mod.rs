//! WireGuard, by `gotatun` in a process of ours.
//!
//! The agent's side:
//! - [`Wireguard`]   the adapter: users become peers
//! - [`uapi`]        the control socket's protocol, as its client
//!
//! The device's side, in a container or a child process:
//! - [`device`]      [`run_device`]: set up, give up all rights, serve
//! - [`network`]     addresses, routes, forwarding
//! - [`firewall`]    what users may not reach, and the way out (NAT)
//! - [`transport`]   the TUN device and the UDP socket
//! - [`control`]     the control socket, as its server
//! - [`netlink`]     how the kernel is told all that
//! - [`confine`]     giving up what the process may do
//!
//! The device has no files. It learns the server's key and the peers by its control socket, whenever the agent finds
//! that they differ ([`Engine::converge`]): a device that has just started has none.

mod confine;
mod control;
mod device;
mod firewall;
mod netlink;
mod network;
mod transport;
mod uapi;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use contract::{Code, ImageRef, UserName, fleet::ServerId, usage::Traffic, users::UserId};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

pub use self::device::{DeviceConfig, run_device};
use self::uapi::{Change, Configuration, Control, Key, Peer};
use super::{Converged, Engine, EngineServer, EngineUser, Launch, Reading, UserSecret};
use crate::backend::{Error, Rights};

/// The image that `make images` builds: it holds this very `vpnd`.
pub const IMAGE: &str = concat!("vpn-wireguard:", env!("CARGO_PKG_VERSION"));
/// New peers in one command. Each takes 0.1 ms of arithmetic, during which no packet passes: 10 ms of a pause.
const ADDITIONS: usize = 100;
/// Gone peers in one command. For each of them `gotatun` looks through all there are: 6 ms with ten thousand, in a build
/// for tests.
const REMOVALS: usize = 5;
/// Between two looks for a device that has just started.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What of a server's settings the adapter can't know by itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The run directory as we know it.
    pub run_dir: PathBuf,
    /// The run directory as the instance knows it.
    pub inside: PathBuf,
    /// The image where the server names none.
    pub image: ImageRef,
    /// `vpnd`, for child processes.
    pub program: PathBuf,
}

/// The WireGuard engine of one instance.
pub struct Wireguard {
    socket: PathBuf,
    launch: Launch,
    state: Mutex<State>,
}

/// Held during each change, so that what is known is what is there.
struct State {
    secret: Zeroizing<Vec<u8>>,
    /// The peers that we have made: the device knows no names.
    peers: HashMap<UserName, Peer>,
    /// Whose they are.
    users: HashMap<Key, UserId>,
    /// Those who left since the last reading.
    last: Vec<Reading>,
}

impl State {
    fn reading(&self, peer: &Key, traffic: Traffic, ends: bool) -> Reading {
        let user = self.users.get(peer).copied();
        Reading { entry: STANDARD.encode(peer), user, traffic, falls: true, ends }
    }
}

impl Wireguard {
    /// The adapter for a server, whether or not its device runs.
    pub fn new(settings: Settings, server: &EngineServer) -> Self {
        let Settings { run_dir, inside, image, program } = settings;
        let mut args = vec!["wireguard-device".to_owned()];
        let mut arg = |name: &str, value: String| args.extend([name.to_owned(), value]);
        arg("--run-dir", inside.display().to_string());
        arg("--interface", interface(&server.server.id));
        arg("--port", server.server.port.to_string());
        for range in &server.server.allow_private {
            arg("--allow", range.to_string());
        }
        for address in &server.own_addresses {
            arg("--deny", address.to_string());
        }
        let launch = Launch { image, program, args, env: Vec::new(), rights: Rights::Network };
        let secret = server.secret.clone();
        let state = State { secret, peers: HashMap::new(), users: HashMap::new(), last: Vec::new() };
        Self { socket: control::socket_path(&run_dir), launch, state: Mutex::new(state) }
    }

    async fn connect(&self) -> Result<Control, Error> {
        Control::connect(&self.socket).await.map_err(|error| self.failed("does not answer", &error))
    }

    /// Removes first: what is removed may be in the way of what is added. The device forgets what it has counted of a
    /// peer that is removed, since the last reading: reading ten thousand peers takes longer than a user may wait to be
    /// shut out.
    async fn change(
        &self,
        state: &mut State,
        control: &mut Control,
        gone: &[Key],
        new: &[&Peer],
    ) -> Result<(), Error> {
        let refused = |error: io::Error| self.failed("refused a change", &error);
        for some in gone.chunks(REMOVALS) {
            control.set(some.iter().fold(Change::nothing(), Change::remove)).await.map_err(refused)?;
            let ends: Vec<_> = some.iter().map(|peer| state.reading(peer, Traffic::NONE, true)).collect();
            state.last.extend(ends);
        }
        for some in new.chunks(ADDITIONS) {
            let change = some.iter().fold(Change::nothing(), |change, peer| change.add(peer));
            control.set(change).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn there(&self, control: &mut Control) -> Result<Configuration, Error> {
        control.get().await.map_err(|error| self.failed("does not say what it has", &error))
    }

    async fn traffic(&self, control: &mut Control) -> Result<HashMap<Key, Traffic>, Error> {
        control.traffic().await.map_err(|error| self.failed("does not say what it has counted", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        let socket = self.socket.display();
        Error::new(Code::RUNTIME_ENGINE_FAILED, format!("the WireGuard device at {socket} {what}: {error}"))
    }
}

#[async_trait]
impl Engine for Wireguard {
    fn launch(&self) -> Launch {
        self.launch.clone()
    }

    /// The device makes its socket anew, so there is nothing to write and nothing in the way.
    async fn prepare(&self, server: &EngineServer, _users: &[EngineUser]) -> Result<(), Error> {
        if !uapi::fits(&self.socket) {
            let message = format!("{} is too long for a socket: 107 bytes", self.socket.display());
            return Err(Error::new(Code::RUNTIME_ENGINE_FAILED, message));
        }
        let mut state = self.state.lock().await;
        state.secret = server.secret.clone();
        state.peers.clear();
        state.users.clear();
        state.last.clear();
        // A socket of the last run would refuse connections, which looks like a device that does not come up.
        match tokio::fs::remove_file(&self.socket).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("has left its socket, which cannot be removed", &error))
            }
            _ => Ok(()),
        }
    }

    async fn ready(&self, deadline: Instant) -> Result<(), Error> {
        loop {
            let answer = async { Control::connect(&self.socket).await?.set(Change::nothing()).await };
            match answer.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(self.failed("does not answer", &error));
                }
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn converge(&self, users: &[EngineUser], _pid: u32) -> Result<Converged, Error> {
        let desired = peers(users)?;
        let mut state = self.state.lock().await;
        let mut control = self.connect().await?;
        let there = self.there(&mut control).await?;
        let secret = key(&state.secret)?;
        if there.private_key.as_ref() != Some(&secret) {
            let change = Change::nothing().private_key(&secret);
            control.set(change).await.map_err(|error| self.failed("refused the server's key", &error))?;
        }
        let wanted: HashSet<&Key> = desired.values().map(|peer| &peer.public_key).collect();
        let gone: Vec<Key> = there.public_keys().filter(|key| !wanted.contains(key)).copied().collect();
        let new: Vec<&Peer> = desired.values().filter(|peer| !there.has(peer)).collect();
        let converged = Converged { added: new.len(), removed: gone.len() };
        self.change(&mut state, &mut control, &gone, &new).await?;
        state.users = ids(users, &desired);
        state.peers = desired;
        Ok(converged)
    }

    async fn add(&self, users: &[EngineUser], _pid: u32) -> Result<(), Error> {
        // In portions, so that a change for one user need not wait for ten thousand others.
        for some in users.chunks(ADDITIONS) {
            let desired = peers(some)?;
            let mut state = self.state.lock().await;
            // Adding a peer that is there would end its session.
            let new: Vec<(&UserName, &Peer)> =
                desired.iter().filter(|(name, peer)| state.peers.get(*name) != Some(peer)).collect();
            if new.is_empty() {
                continue;
            }
            let had = new.iter().filter_map(|(name, _)| state.peers.get(*name));
            let gone: Vec<Key> = had.map(|peer| peer.public_key).collect();
            let new: Vec<&Peer> = new.into_iter().map(|(_, peer)| peer).collect();
            self.change(&mut state, &mut self.connect().await?, &gone, &new).await?;
            for peer in &gone {
                state.users.remove(peer);
            }
            state.users.extend(ids(some, &desired));
            state.peers.extend(desired);
        }
        Ok(())
    }

    async fn remove(&self, users: &[UserName], _pid: u32) -> Result<(), Error> {
        for some in users.chunks(REMOVALS) {
            let mut state = self.state.lock().await;
            let there = some.iter().filter_map(|name| state.peers.get(name));
            let gone: Vec<Key> = there.map(|peer| peer.public_key).collect();
            if gone.is_empty() {
                continue;
            }
            self.change(&mut state, &mut self.connect().await?, &gone, &[]).await?;
            for peer in &gone {
                state.users.remove(peer);
            }
            for name in some {
                state.peers.remove(name);
            }
        }
        Ok(())
    }

    async fn usage(&self) -> Result<Vec<Reading>, Error> {
        // Held while it is read: what is older must not come later.
        let mut state = self.state.lock().await;
        let traffic = self.traffic(&mut self.connect().await?).await?;
        let mut found = std::mem::take(&mut state.last);
        found.extend(traffic.iter().map(|(peer, traffic)| state.reading(peer, *traffic, false)));
        Ok(found)
    }

    /// The device starts from nothing: [`Engine::converge`] follows each start.
    async fn save(&self, _server: &EngineServer, _users: &[EngineUser]) -> Result<(), Error> {
        Ok(())
    }
}

/// The name of a server's interface: in the host's network, where child processes are, it must be one of a kind. 15
/// characters is all that the kernel has room for.
pub fn interface(server: &ServerId) -> String {
    let [a, b, c, d, e, f, ..] = Sha256::digest(server.0).0;
    format!("vpn{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}")
}

/// Removes what a child process's device may have left in the host's network. It must have ended, and be called by
/// somebody who may change networks (`CAP_NET_ADMIN`). A container's network goes with the container.
pub async fn clear(server: &ServerId) -> Result<(), Error> {
    let interface = interface(server);
    let cleared = tokio::task::spawn_blocking({
        let interface = interface.clone();
        move || firewall::clear(&interface).and_then(|()| network::clear(&interface))
    });
    let cleared = cleared.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    cleared.map_err(|error| {
        Error::new(
            Code::RUNTIME_ENGINE_FAILED,
            format!("the remains of {interface} cannot be removed: {error}"),
        )
    })
}

fn peers(users: &[EngineUser]) -> Result<HashMap<UserName, Peer>, Error> {
    let peer = |user: &EngineUser| match &user.secret {
        UserSecret::Wireguard { public_key, preshared_key, address } => {
            let (public_key, preshared_key) = (*public_key, preshared_key.clone());
            Ok((user.name.clone(), Peer { public_key, preshared_key, addresses: address.both() }))
        }
        _ => Err(Error::new(Code::INTERNAL, format!("{} is a user of another protocol", user.name))),
    };
    users.iter().map(peer).collect()
}

fn ids(users: &[EngineUser], peers: &HashMap<UserName, Peer>) -> HashMap<Key, UserId> {
    users.iter().filter_map(|user| Some((peers.get(&user.name)?.public_key, user.id))).collect()
}

fn key(secret: &[u8]) -> Result<Zeroizing<Key>, Error> {
    let key = Key::try_from(secret).map(Zeroizing::new);
    key.map_err(|_| Error::new(Code::INTERNAL, "a WireGuard server's key that has not 32 bytes"))
}
