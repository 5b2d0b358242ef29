//! One user's way through one server, whatever its protocol, and a connection that is held open on it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use contract::Protocol;
use testkit::{
    wait::eventually,
    wireguard_client::WireguardClient,
    xray_client::{Held, XrayClient},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinHandle};

use crate::world::SOON;

/// A page over the tunnel takes milliseconds; a busy machine is given this long before it counts as a refusal.
const PAGE_WITHIN: Duration = Duration::from_secs(3);
/// The target sends a byte every 50 ms: a session that says nothing for so long is none.
const SILENCE: Duration = Duration::from_millis(600);

/// One user's way through one server, whatever its protocol.
pub(crate) enum Way {
    Xray(XrayClient),
    Wireguard(WireguardClient),
}

impl Way {
    pub(crate) async fn by(protocol: Protocol, link: &str) -> Self {
        match protocol {
            Protocol::Wireguard => Self::Wireguard(WireguardClient::connect(link).await),
            Protocol::VlessReality | Protocol::Shadowsocks2022 => {
                Self::Xray(XrayClient::start(link).await.unwrap())
            }
        }
    }

    pub(crate) async fn fetch(&self, url: &str, within: Duration) -> io::Result<()> {
        match self {
            Self::Xray(client) => client.fetch(url, within).await.map(drop),
            Self::Wireguard(client) => client.fetch(url, within).await.map(drop),
        }
    }

    pub(crate) async fn accepted(&self, url: &str) {
        eventually("a page comes", SOON, async || self.fetch(url, PAGE_WITHIN).await).await;
    }

    pub(crate) async fn hold(&self, url: &str) -> Session {
        match self {
            Self::Xray(client) => Session::Xray(client.hold(url, SOON).await.unwrap()),
            Self::Wireguard(client) => Session::reading(client.hold(url, SOON).await.unwrap()),
        }
    }

    /// The start of the last new connection that got through, counted from `since`; returns when several in a row
    /// did not.
    pub(crate) async fn refused_after(&self, url: &str, since: Instant) -> Duration {
        let (mut last, mut refused) = (Duration::ZERO, 0);
        while refused < 2 {
            let started = since.elapsed();
            match self.fetch(url, Duration::from_millis(700)).await {
                Ok(()) => (last, refused) = (started, 0),
                Err(_) => refused += 1,
            }
            assert!(since.elapsed() < SOON, "still gets through after {SOON:?}");
        }
        last
    }
}

/// A connection that is held open. How it ends is told by some protocols and not by others; all of them fall silent.
pub(crate) enum Session {
    Xray(Held),
    Wireguard(Arc<AtomicU64>, AbortOnDrop),
}

pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    fn reading(mut stream: TcpStream) -> Self {
        let bytes = Arc::new(AtomicU64::new(1));
        let count = bytes.clone();
        let reading = tokio::spawn(async move {
            while stream.read_u8().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self::Wireguard(bytes, AbortOnDrop(reading))
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Xray(held) => held.bytes(),
            Self::Wireguard(bytes, _) => bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Xray(held) => held.is_open(),
            Self::Wireguard(_, reading) => !reading.0.is_finished(),
        }
    }

    /// Waits until it is over; returns when its last byte came.
    pub(crate) async fn ended(&self) -> Instant {
        let (mut last, mut bytes) = (Instant::now(), self.bytes());
        let began = last;
        while last.elapsed() < SILENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.bytes() != bytes {
                (last, bytes) = (Instant::now(), self.bytes());
            }
            assert!(began.elapsed() < SOON, "the session goes on");
        }
        last
    }

    /// Waits until it has said something new.
    pub(crate) async fn goes_on(&self) {
        let before = self.bytes();
        eventually("the session goes on", SOON, async || self.bytes() > before).await;
        assert!(self.is_open());
    }
}
