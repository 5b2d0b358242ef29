//! One user's way through a VPN server: connections, pages, and connections that are held open.

use std::{
    io::{Error, ErrorKind, Result},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};
use url::Url;

use crate::http;

/// A refusal that came at once must not make a busy loop.
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// One user's way. Cheap to clone; of no use once its client is dropped.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub(super) socks: SocketAddr,
    pub(super) slot: usize,
    /// How long an unanswered try is waited for before the next.
    pub(super) patience: Duration,
}

/// A page that came whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fetched {
    /// Of the page.
    pub bytes: u64,
    /// From the start of the connection to the last byte.
    pub seconds: f64,
}

impl Tunnel {
    /// A connection. Names are resolved at the far end.
    ///
    /// That this succeeds says nothing yet: the client connects to the server when the first bytes are sent, and a
    /// user who is refused sees the connection end.
    pub async fn open(&self, host: &str, port: u16) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.socks).await?;
        stream.set_nodelay(true)?;
        socks5(&mut stream, &super::slot_name(self.slot), host, port).await?;
        Ok(stream)
    }

    /// A page, whole and with status 200, or the reason why not.
    pub async fn fetch(&self, url: &str, within: Duration) -> Result<Fetched> {
        let url = Url::parse(url).map_err(Error::other)?;
        let (host, port) = http::host_and_port(&url)?;
        let started = Instant::now();
        let fetched = async {
            let mut stream = self.open(&host, port).await?;
            let mut bytes = 0;
            let status = http::get_over(&mut stream, &url, |part| bytes += part.len() as u64).await?;
            if status != 200 {
                return Err(Error::other(format!("{url}: status {status}")));
            }
            Ok(Fetched { bytes, seconds: started.elapsed().as_secs_f64() })
        };
        limited(within, fetched).await
    }

    /// Tries until a page comes, which is when the server has taken the user in; returns how long that was.
    ///
    /// The next try begins when one has failed, or has gone unanswered for as long as an accepted one takes: a server
    /// that does not know a Shadowsocks user keeps silent rather than refuse. The first that gets through ends all.
    pub async fn accepted(&self, url: &str, within: Duration) -> Result<Duration> {
        let started = Instant::now();
        let tries = async {
            let mut tries = JoinSet::new();
            loop {
                let (tunnel, url) = (self.clone(), url.to_owned());
                tries.spawn(async move { tunnel.fetch(&url, within).await });
                match tokio::time::timeout(self.patience, tries.join_next()).await {
                    Ok(Some(Ok(Ok(_)))) => return Ok(started.elapsed()),
                    Ok(_) => tokio::time::sleep(BETWEEN_TRIES).await,
                    Err(_) => {}
                }
            }
        };
        limited(within, tries).await
    }

    /// Keeps a page open that never ends (`/slow` of [`crate::sites::Target`]); returns at its first byte.
    pub async fn hold(&self, url: &str, within: Duration) -> Result<Held> {
        let url = Url::parse(url).map_err(Error::other)?;
        let (host, port) = http::host_and_port(&url)?;
        let opened = async {
            let mut stream = self.open(&host, port).await?;
            let (status, _, first) = http::ask(&mut stream, &url).await?;
            if status != 200 {
                return Err(Error::other(format!("{url}: status {status}")));
            }
            if first.is_empty() {
                stream.read_u8().await?;
            }
            Ok(stream)
        };
        let mut stream = limited(within, opened).await?;
        let bytes = Arc::new(AtomicU64::new(1));
        let counted = Arc::clone(&bytes);
        let reading = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                counted.fetch_add(count as u64, Ordering::Relaxed);
            }
            Instant::now()
        });
        Ok(Held { bytes, reading })
    }
}

/// A connection that is held open and read. Closed when dropped.
#[derive(Debug)]
pub struct Held {
    bytes: Arc<AtomicU64>,
    reading: JoinHandle<Instant>,
}

impl Held {
    /// Bytes of the page so far: while they grow, the connection works.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether nobody has ended it.
    pub fn is_open(&self) -> bool {
        !self.reading.is_finished()
    }

    /// Waits until somebody ends it; returns when that was.
    pub async fn ended(&mut self, within: Duration) -> Result<Instant> {
        limited(within, async { (&mut self.reading).await.map_err(Error::other) }).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn limited<T>(within: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(within, work)
        .await
        .map_err(|_| Error::new(ErrorKind::TimedOut, format!("not within {within:?}")))?
}

/// RFC 1928 with the user and password of RFC 1929; the host always goes as a name unless it is an address.
async fn socks5(stream: &mut TcpStream, user: &str, host: &str, port: u16) -> Result<()> {
    let refused = |what: &str| Error::new(ErrorKind::ConnectionRefused, format!("SOCKS: {what}"));
    let short = |text: &str| u8::try_from(text.len()).map_err(|_| refused("too long a name"));

    // All in one go: the server reads it step by step.
    let mut hello = vec![5, 1, 2, 1, short(user)?];
    hello.extend_from_slice(user.as_bytes());
    hello.extend_from_slice(&[1, b'x', 5, 1, 0]);
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => hello.extend([1].into_iter().chain(ip.octets())),
        Ok(std::net::IpAddr::V6(ip)) => hello.extend([4].into_iter().chain(ip.octets())),
        Err(_) => hello.extend([3, short(host)?].into_iter().chain(host.bytes())),
    }
    hello.extend(port.to_be_bytes());
    stream.write_all(&hello).await?;

    let mut answers = [0; 8];
    stream.read_exact(&mut answers).await?;
    let [5, 2, 1, 0, 5, status, 0, kind] = answers else {
        return Err(refused(&format!("{answers:?}")));
    };
    let rest = match kind {
        1 => 4 + 2,
        4 => 16 + 2,
        _ => return Err(refused(&format!("{answers:?}"))),
    };
    stream.read_exact(&mut [0; 18][..rest]).await?;
    if status == 0 { Ok(()) } else { Err(refused(&format!("status {status}"))) }
}
