//! A user's WireGuard client: another `gotatun`, in a network of its own with a cable to the server's.
//!
//! ```no_run
//! # async fn test(file: &str) {
//! # use std::time::Duration;
//! use testkit::wireguard_client::WireguardClient;
//!
//! let client = WireguardClient::connect(file).await;
//! let page = client.fetch("http://192.0.2.1:8080/bytes/10", Duration::from_secs(5)).await.unwrap();
//! # }
//! ```
//!
//! It takes root. Of the file (wg-quick(8)) it does what a client does, but for `DNS`: names are not resolved.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gotatun::{
    device::{self, Device, Peer},
    noise::{Tunn, TunnResult, index_table::IndexTable, rate_limiter::RateLimiter},
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
    udp::socket::UdpSocketFactory,
    x25519::{PublicKey, StaticSecret},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, UdpSocket},
    time::{sleep_until, timeout_at},
};
use tun_rs::{AsyncDevice, DeviceBuilder};
use url::Url;

use crate::{
    http,
    netns::{Cable, Namespace, Resident},
    xray_client::Fetched,
};

const INTERFACE: &str = "wg0";
/// wg-quick's, for a network like Ethernet.
const MTU: u16 = 1420;

/// A client. Its network is gone when it is dropped.
pub struct WireguardClient {
    _device: Resident<Device<(UdpSocketFactory, Tun, Tun)>>,
    namespace: Namespace,
    cable: Cable,
}

impl WireguardClient {
    /// A client of a server in the test's own network. An endpoint on loopback is reached at our end of the cable.
    pub async fn connect(file: &str) -> Self {
        Self::connect_in(file, None).await
    }

    /// The same for a server in another namespace.
    pub async fn connect_to(file: &str, server: &Namespace) -> Self {
        Self::connect_in(file, Some(server)).await
    }

    /// # Panics
    /// Where the file can't be understood, and without root.
    async fn connect_in(file: &str, server: Option<&Namespace>) -> Self {
        let namespace = Namespace::new();
        let cable = namespace.connect(server);
        let file = File::parse(file);
        let mut endpoint = file.endpoint;
        if endpoint.ip().is_loopback() {
            endpoint.set_ip(cable.far.into());
        }

        let (private_key, mtu) = (StaticSecret::from(file.private_key), file.mtu);
        let mut peer = Peer::new(PublicKey::from(file.public_key)).with_endpoint(endpoint);
        peer.preshared_key = file.preshared_key;
        peer.keepalive = file.keepalive;
        peer.allowed_ips = file.allowed.iter().map(|range| range.parse().unwrap()).collect();
        let device = namespace.host(move || async move {
            let tun = DeviceBuilder::new().name(INTERFACE).mtu(mtu).build_async().unwrap();
            let device = device::build().with_default_udp().with_ip(Tun { device: Arc::new(tun), mtu });
            device.with_private_key(private_key).with_peer(peer).build().await.unwrap()
        });
        let device = device.await;

        // The endpoint by the cable, all else by the tunnel.
        if endpoint.is_ipv4() {
            namespace.ip(&format!("route add {}/32 via {}", endpoint.ip(), cable.far));
        }
        for address in &file.addresses {
            namespace.ip(&format!("addr add {address} dev {INTERFACE}"));
        }
        for range in &file.allowed {
            let family = if range.contains(':') { "-6 " } else { "" };
            namespace.ip(&format!("{family}route add {range} dev {INTERFACE}"));
        }
        Self { _device: device, namespace, cable }
    }

    /// Its network, for what a user may try besides.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The cable to the server's network.
    pub fn cable(&self) -> &Cable {
        &self.cable
    }

    /// A connection through the tunnel.
    pub async fn open(&self, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
        self.namespace.dial(to, within).await
    }

    /// A page, whole and with status 200, or the reason why not. The host must be an address.
    pub async fn fetch(&self, url: &str, within: Duration) -> io::Result<Fetched> {
        let url = Url::parse(url).map_err(io::Error::other)?;
        let started = Instant::now();
        let fetched = async {
            let mut stream = self.open(address(&url)?, within).await?;
            let mut bytes = 0;
            let status = http::get_over(&mut stream, &url, |part| bytes += part.len() as u64).await?;
            if status != 200 {
                return Err(io::Error::other(format!("{url}: status {status}")));
            }
            Ok(Fetched { bytes, seconds: started.elapsed().as_secs_f64() })
        };
        limited(within, fetched).await
    }

    /// A page that never ends (`/slow` of [`crate::sites::Target`]), at its first byte.
    pub async fn hold(&self, url: &str, within: Duration) -> io::Result<TcpStream> {
        let url = Url::parse(url).map_err(io::Error::other)?;
        let opened = async {
            let mut stream = self.open(address(&url)?, within).await?;
            let (status, _, first) = http::ask(&mut stream, &url).await?;
            if status != 200 {
                return Err(io::Error::other(format!("{url}: status {status}")));
            }
            if first.is_empty() {
                stream.read_u8().await?;
            }
            Ok(stream)
        };
        limited(within, opened).await
    }
}

/// How long a handshake goes unanswered before it was most likely too early: a server keeps silent to who it does
/// not know, and answers in a fraction of this else.
const PATIENCE: Duration = Duration::from_millis(2);
/// Each try waits so much longer: a busy server's answer comes late, and it takes 100 tries a second.
const MORE_PATIENCE: Duration = Duration::from_micros(500);
/// At most.
const MOST_PATIENCE: Duration = Duration::from_millis(50);
/// An answer to a try of long ago says that those to the later ones are under way, but for the ones that get lost.
const LATE: Duration = Duration::from_secs(1);

/// Tries until the server answers a handshake, which is when it has taken the user in; no more than that, and
/// without a network of its own. Servers take 100 handshakes a second from one address: on loopback there are
/// many to come `from`.
pub async fn handshake(file: &str, from: IpAddr, within: Duration) -> io::Result<()> {
    let file = File::parse(file);
    let (private_key, server) = (StaticSecret::from(file.private_key), PublicKey::from(file.public_key));
    // A client answers nobody: the limit is never met.
    let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&private_key), u64::MAX));
    let index = IndexTable::from_os_rng();
    let mut tunnel = Tunn::new(private_key, server, file.preshared_key, None, index, limiter);
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(file.endpoint).await?;
    let tries = async {
        let mut patience = PATIENCE;
        while !answered(&socket, &mut tunnel, patience).await {
            patience = (patience + MORE_PATIENCE).min(MOST_PATIENCE);
        }
        Ok(())
    };
    limited(within, tries).await
}

/// One try: whether the server answers it.
///
/// The tunnel understands answers to its last two tries. A server that was busy answers all that has come meanwhile,
/// the oldest first: who tried anew at each answer too old would stay as many tries behind for ever, and never hear
/// one that it understands.
async fn answered(socket: &UdpSocket, tunnel: &mut Tunn, patience: Duration) -> bool {
    let hello = tunnel.format_handshake_initiation(true).expect("a forced one is always made");
    let mut answer = [0; 2048];
    let mut until = Instant::now() + patience;
    let heard: io::Result<bool> = async {
        socket.send(&hello.into_bytes()).await?;
        loop {
            let Ok(length) = timeout_at(until.into(), socket.recv(&mut answer)).await else {
                return Ok(false);
            };
            let packet = Packet::copy_from(&answer[..length?]).try_into_wg().map_err(io::Error::other)?;
            match tunnel.handle_incoming_packet(packet) {
                TunnResult::WriteToNetwork(_) => return Ok(true),
                // A cookie, for the next try.
                TunnResult::Done => return Ok(false),
                _ => until = Instant::now() + LATE,
            }
        }
    }
    .await;
    if heard.is_err() {
        // A server that does not listen yet refuses at once, which is no reason to hurry.
        sleep_until(until.into()).await;
    }
    heard.unwrap_or(false)
}

async fn limited<T>(within: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(within, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn address(url: &Url) -> io::Result<SocketAddr> {
    let (host, port) = http::host_and_port(url)?;
    let host: IpAddr = host.parse().map_err(io::Error::other)?;
    Ok((host, port).into())
}

/// What we need of a file.
struct File {
    private_key: [u8; 32],
    addresses: Vec<String>,
    mtu: u16,
    public_key: [u8; 32],
    preshared_key: Option<[u8; 32]>,
    endpoint: SocketAddr,
    allowed: Vec<String>,
    keepalive: Option<u16>,
}

impl File {
    fn parse(text: &str) -> Self {
        let values: HashMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split('#').next()?.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let need = |name: &str| *values.get(name).unwrap_or_else(|| panic!("the file has no {name}"));
        let list = |name: &str| need(name).split(',').map(|part| part.trim().to_owned()).collect();
        Self {
            private_key: key(need("PrivateKey")),
            addresses: list("Address"),
            mtu: number(&values, "MTU").unwrap_or(MTU),
            public_key: key(need("PublicKey")),
            preshared_key: values.get("PresharedKey").map(|text| key(text)),
            endpoint: need("Endpoint")
                .to_socket_addrs()
                .unwrap()
                .next()
                .expect("the endpoint has an address"),
            allowed: list("AllowedIPs"),
            keepalive: number(&values, "PersistentKeepalive"),
        }
    }
}

fn key(base64: &str) -> [u8; 32] {
    let bytes = STANDARD.decode(base64).expect("a key is base64");
    bytes.try_into().expect("a key has 32 bytes")
}

fn number<T: FromStr>(values: &HashMap<&str, &str>, name: &str) -> Option<T> {
    values.get(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text}")))
}

/// The kernel's end of the tunnel.
#[derive(Clone)]
struct Tun {
    device: Arc<AsyncDevice>,
    mtu: u16,
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.device.send(&packet.into_bytes()).await.map(|_| ())
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let mut packet = pool.get();
        let length = self.device.recv(&mut packet).await?;
        packet.truncate(length);
        Ok(packet.try_into_ip().ok().into_iter())
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}
