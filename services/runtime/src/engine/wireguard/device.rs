//! The process inside the container: a WireGuard device in user space, with its network around it.
//!
//! It starts with `CAP_NET_ADMIN`, sets up what [`super::network`] and [`super::firewall`] describe, and has given all
//! of its rights up before the first packet comes in. It knows no key: the agent brings them by the control socket.

use std::{fmt, io, net::IpAddr, num::NonZeroUsize, path::PathBuf, pin::pin, sync::Arc, thread};

use contract::{Code, Port, usage::Traffic};
use gotatun::device::{self, configure::PeerStats, uapi::UapiServer};
use ipnet::IpNet;
use tokio::{
    net::UnixListener,
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc},
};

use super::{
    confine, control,
    firewall::{Firewall, Reach},
    network,
    transport::{Bound, Tun},
    uapi::Key,
};
use crate::backend::Error;

/// The engine is a pipeline of six tasks; more threads than this have nothing to do.
const THREADS: usize = 4;

/// What the device must be told. Nothing of it is secret.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// Where its control socket goes.
    pub run_dir: PathBuf,
    /// The name of its interface, at most 15 characters: see [`super::interface`].
    pub interface: String,
    /// The UDP port that clients connect to.
    pub port: Port,
    /// Private destinations that users may reach all the same.
    pub allow: Vec<IpNet>,
    /// Addresses that users may not reach although they may be public: the node's own.
    pub deny: Vec<IpAddr>,
}

/// Runs the device until it is asked to end (SIGTERM, SIGINT).
///
/// It makes a runtime of its own, because rights belong to threads: call it before any other thread is started, which
/// would keep its rights (and the device refuses to run then). Errors: `runtime.not_permitted`,
/// `runtime.port_in_use`, `runtime.engine_failed`.
pub fn run_device(config: &DeviceConfig) -> Result<(), Error> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS);
    let confined = Arc::new(Semaphore::new(0));
    let confines = Arc::clone(&confined);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(1)
        .thread_name("wireguard")
        .enable_all()
        .on_thread_start(move || {
            // What has not worked is found when all threads are looked at, before the device runs.
            let _ = confine::this_thread();
            confines.add_permits(1);
        })
        .build()
        .map_err(|error| failed("start threads", &error))?;
    runtime.block_on(async {
        let network = Network::set_up(config).await?;
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        let confined =
            confined.acquire_many(threads).await.map_err(|error| failed("start threads", &error))?;
        confined.forget();
        confine::this_thread()
            .and_then(|()| confine::nothing_is_left())
            .map_err(|error| failed("give up its rights", &error))?;
        network.run().await
    })
}

/// All that takes rights. When it is gone, the kernel removes the interface, its routes and the packet filter's table.
struct Network {
    _firewall: Firewall,
    tun: Tun,
    socket: Bound,
    control: UnixListener,
}

impl Network {
    /// In such an order that no packet of a user could get through before the filter is there.
    async fn set_up(config: &DeviceConfig) -> Result<Self, Error> {
        let DeviceConfig { run_dir, interface, port, .. } = config;
        let reach = Reach::new(&config.allow, &config.deny);
        let firewall =
            Firewall::raise(interface, &reach).map_err(|error| failed("filter packets", &error))?;
        let tun = Tun::make(interface).map_err(|error| failed(format_args!("make {interface}"), &error))?;
        tun.index()
            .and_then(|index| network::set_up(interface, index))
            .map_err(|error| failed(format_args!("set up {interface}"), &error))?;
        let socket = Bound::bind(port.get()).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                Error::new(Code::RUNTIME_PORT_IN_USE, format!("UDP port {port} is in use on the node"))
            }
            _ => failed(format_args!("listen on UDP port {port}"), &error),
        })?;
        let control = control::listen(run_dir)
            .map_err(|error| failed(format_args!("listen in {}", run_dir.display()), &error))?;
        Ok(Self { _firewall: firewall, tun, socket, control })
    }

    async fn run(self) -> Result<(), Error> {
        let (mut terminate, mut interrupt) = signal(SignalKind::terminate())
            .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)))
            .map_err(|error| failed("listen to signals", &error))?;
        let (client, server) = UapiServer::new();
        let device = device::build().with_uapi(server).with_udp(self.socket).with_ip(self.tun);
        let mut device = device.build().await.map_err(|error| failed("run", &error))?;
        tracing::info!("ready for the agent");
        let (traffic, mut asked) = mpsc::channel(1);
        let mut controlled = pin!(control::serve(self.control, control::Answers { device: client, traffic }));
        let ended = loop {
            let answer: control::Asked = tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                () = device.wait() => break Err(failed("go on", &"its interface or socket is gone")),
                error = &mut controlled => break Err(failed("be controlled", &error)),
                Some(answer) = asked.recv() => answer,
            };
            let peers = device.read(async |device| device.peers().await).await;
            // Who asked may have gone away.
            let _ = answer.send(peers.iter().filter_map(counted).collect());
        };
        device.stop().await;
        ended
    }
}

/// What came from a peer and went to it; none where nothing did.
fn counted(of: &PeerStats) -> Option<(Key, Traffic)> {
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let traffic = Traffic { up: bytes(of.stats.rx_bytes), down: bytes(of.stats.tx_bytes) };
    (traffic != Traffic::NONE).then(|| (of.peer.public_key.to_bytes(), traffic))
}

fn failed(what: impl fmt::Display, error: &impl fmt::Display) -> Error {
    Error::new(Code::RUNTIME_ENGINE_FAILED, format!("the WireGuard device cannot {what}: {error}"))
}
