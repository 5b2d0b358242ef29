//! What a VPN server talks to: the TLS site that REALITY hides behind, and the page that a user wants.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{ports, wait::eventually};

/// A fresh REALITY engine learns what its dest sends after a handshake, for as long as an idle connection stays open,
/// and a client that comes meanwhile is made to wait for 5 s. So idle connections end soon here.
const IDLE_LIMIT: Duration = Duration::from_millis(100);
/// A REALITY engine learns from so many connections for each server name: it offers three lists of protocols.
const LEARNED_FROM: u64 = 3;
/// Between two bytes of `/slow`: fast enough that a cut is seen at once.
const SLOW_PAUSE: Duration = Duration::from_millis(50);
/// Nobody here sends a longer request.
const MAX_REQUEST: usize = 8 * 1024;

/// A TLS site with a certificate of its own authority, for REALITY's `dest`. Serves connections side by side, and
/// ends idle ones soon. Ends when dropped.
#[derive(Debug)]
pub struct TlsSite {
    name: String,
    site: Site,
    folder: TempDir,
}

impl TlsSite {
    /// TLS 1.3 with X25519 on loopback, for this name.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, Ipv4Addr::LOCALHOST.into(), &TLS13).await
    }

    /// The same on another address, such as one that containers can reach.
    pub async fn start_on(name: &str, ip: IpAddr) -> Self {
        Self::start_with(name, ip, &TLS13).await
    }

    /// One that is not good enough for REALITY.
    pub async fn start_tls12(name: &str) -> Self {
        Self::start_with(name, Ipv4Addr::LOCALHOST.into(), &TLS12).await
    }

    async fn start_with(name: &str, ip: IpAddr, version: &'static SupportedProtocolVersion) -> Self {
        let folder = tempfile::Builder::new().prefix("vpn-test-site-").tempdir().unwrap();
        let (config, authority) = certified(name, version);
        tokio::fs::write(folder.path().join("ca.pem"), authority).await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let site = Site::start(ip, move |socket, counts| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    serve(stream, &counts, IDLE_LIMIT).await;
                }
            }
        })
        .await;
        Self { name: name.to_owned(), site, folder }
    }

    /// The name in its certificate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.site.address
    }

    /// Its authority's certificate. An engine trusts it when `SSL_CERT_FILE` says this path.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Its authority's certificate as text.
    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.ca_file()).unwrap()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.site.counts.connections.load(Ordering::Relaxed)
    }

    /// Waits until so many REALITY engines, counted from the start of the site, have learned from it what they need:
    /// before that, each client of a fresh engine is made to wait for 5 s.
    pub async fn taught(&self, engines: u64, within: Duration) {
        eventually("REALITY engines have learned from their dest", within, async || {
            let ended = self.site.counts.idle_ended.load(Ordering::Relaxed);
            if ended >= engines * LEARNED_FROM {
                Ok(())
            } else {
                Err(format!("{ended} idle connections have ended"))
            }
        })
        .await;
    }
}

fn certified(name: &str, version: &'static SupportedProtocolVersion) -> (ServerConfig, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);

    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (config, ca.pem())
}

/// An HTTP site, counted. Ends when dropped.
///
/// `/bytes/N` is a page of N bytes; `/slow` never ends and sends a byte now and then; all else is not found.
#[derive(Debug)]
pub struct Target {
    site: Site,
}

impl Target {
    /// On 127.0.0.1.
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// On another address of this machine. All of 127.0.0.0/8 is, without further ado.
    pub async fn start_on(ip: IpAddr) -> Self {
        let serve = |socket, counts: Arc<Counts>| async move { serve(socket, &counts, Duration::MAX).await };
        Self { site: Site::start(ip, serve).await }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.site.address
    }

    /// `http://IP:PORT/bytes/N`
    pub fn bytes_url(&self, bytes: u64) -> String {
        format!("http://{}/bytes/{bytes}", self.address())
    }

    /// `http://IP:PORT/slow`
    pub fn slow_url(&self) -> String {
        format!("http://{}/slow", self.address())
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.site.counts.requests.load(Ordering::Relaxed)
    }

    /// Bytes of pages sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.site.counts.bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    /// Connections that were ended because nothing came.
    idle_ended: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A listener whose connections end with it.
#[derive(Debug)]
struct Site {
    address: SocketAddr,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Site {
    async fn start<F>(ip: IpAddr, serve: impl Fn(TcpStream, Arc<Counts>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, ports::free())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let accepting = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let _ = socket.set_nodelay(true);
                open.spawn(serve(socket, Arc::clone(&shared)));
                while open.try_join_next().is_some() {}
            }
        });
        Self { address, counts, accepting }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Requests of one connection, one after another. A peer that goes away is no error here.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, counts: &Counts, idle: Duration) {
    loop {
        let mut request = Vec::new();
        let read = tokio::time::timeout(idle, async {
            while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST {
                if stream.read_buf(&mut request).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            std::io::Result::Ok(())
        });
        let read = read.await;
        if !matches!(read, Ok(Ok(()))) {
            let _ = stream.shutdown().await;
            drop(stream);
            if read.is_err() {
                counts.idle_ended.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        if answer(&mut stream, &path(&request), counts).await.is_err() {
            return;
        }
    }
}

fn path(request: &[u8]) -> String {
    String::from_utf8_lossy(request).split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), path: &str, counts: &Counts) -> std::io::Result<()> {
    static PART: [u8; 64 * 1024] = [b'.'; 64 * 1024];
    if path == "/slow" {
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
        loop {
            stream.write_all(&PART[..1]).await?;
            stream.flush().await?;
            counts.bytes.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(SLOW_PAUSE).await;
        }
    }
    let Some(mut left) = path.strip_prefix("/bytes/").and_then(|count| count.parse::<usize>().ok()) else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
        return stream.flush().await;
    };
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes()).await?;
    while left > 0 {
        let sent = stream.write(&PART[..left.min(PART.len())]).await?;
        counts.bytes.fetch_add(sent as u64, Ordering::Relaxed);
        left -= sent;
    }
    stream.flush().await
}
