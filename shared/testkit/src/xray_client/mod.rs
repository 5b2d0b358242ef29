//! A user's client: the real Xray, for one link or for hundreds.
//!
//! - [`link`]   what a link says
//! - [`tunnel`] connections and pages through a server
//! - `api`      users added to a client that runs
//!
//! ```no_run
//! # async fn test(link: &str, another: &str) {
//! # use std::time::Duration;
//! use testkit::xray_client::XrayClient;
//!
//! let client = XrayClient::start(link).await.unwrap();
//! let page = client.fetch("http://127.0.0.1:8080/bytes/10", Duration::from_secs(5)).await.unwrap();
//! let late = client.add(another).await.unwrap();
//! # }
//! ```
//!
//! Starting a program for each user would hide what a test wants to measure. So one program has a SOCKS port with
//! many user names, `slot-0`, `slot-1` and so on, each of which is routed to the outbound of the same name. A
//! link takes a slot: at the start in the configuration, or later by one call that makes the outbound. A slot
//! without an outbound leads nowhere.

mod api;
pub mod link;
pub mod tunnel;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::Mutex,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{ports, process::Process, programs::program, wait::eventually};
use api::Api;
pub use link::{Link, LinkError};
pub use tunnel::{Fetched, Held, Tunnel};

/// Links that can be added later; removed ones make room again. Each costs a routing rule that every connection
/// is compared with.
const SPARE_SLOTS: usize = 512;
/// 0.2 s on an idle machine; a loaded one gets time.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A client for one or many users. Killed when dropped.
#[derive(Debug)]
pub struct XrayClient {
    socks: SocketAddr,
    api: Api,
    given: Vec<Tunnel>,
    spare: Mutex<Vec<usize>>,
    process: Process,
    _folder: TempDir,
}

impl XrayClient {
    /// For one link.
    pub async fn start(link: &str) -> Result<Self, LinkError> {
        Self::many([link]).await
    }

    /// For many links at once; their tunnels are [`XrayClient::tunnels`], in the same order.
    pub async fn many<L: AsRef<str>>(links: impl IntoIterator<Item = L>) -> Result<Self, LinkError> {
        let links: Vec<Link> =
            links.into_iter().map(|link| Link::parse(link.as_ref())).collect::<Result<_, _>>()?;
        let slots = links.len() + SPARE_SLOTS;
        let (socks, api) = (ports::free(), ports::free());
        let folder = tempfile::Builder::new().prefix("vpn-test-client-").tempdir().unwrap();
        let file = folder.path().join("client.json");
        write_private(&file, &config(&links, slots, socks, api));

        let mut command = Command::new(program("xray"));
        command.arg("run").arg("-c").arg(&file);
        let mut process = Process::spawn("xray (client)", &command);
        eventually("the client listens", READY_WITHIN, async || {
            process.must_run();
            TcpStream::connect((Ipv4Addr::LOCALHOST, api)).await?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, socks)).await
        })
        .await;
        let socks = SocketAddr::from((Ipv4Addr::LOCALHOST, socks));
        let tunnel = |(slot, link): (usize, &Link)| Tunnel { socks, slot, patience: link.patience() };
        Ok(Self {
            socks,
            api: Api::connect(api).await,
            given: links.iter().enumerate().map(tunnel).collect(),
            spare: Mutex::new((links.len()..slots).rev().collect()),
            process,
            _folder: folder,
        })
    }

    /// The tunnels of the links that the client was started with.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.given.clone()
    }

    /// Adds a link while the client runs: one call, below a millisecond.
    ///
    /// # Panics
    /// Where no slot is left, or Xray does not take it.
    pub async fn add(&self, link: &str) -> Result<Tunnel, LinkError> {
        let link = Link::parse(link)?;
        let slot = self.spare.lock().unwrap().pop().expect("a client has 512 spare slots");
        self.api.add(&slot_name(slot), &link).await.unwrap();
        Ok(Tunnel { socks: self.socks, slot, patience: link.patience() })
    }

    /// Takes an added link away; its open connections stay.
    ///
    /// # Panics
    /// Where Xray does not do it.
    pub async fn remove(&self, tunnel: Tunnel) {
        self.api.remove(&slot_name(tunnel.slot)).await.unwrap();
        self.spare.lock().unwrap().push(tunnel.slot);
    }

    /// The first link's [`Tunnel::fetch`].
    pub async fn fetch(&self, url: &str, within: Duration) -> io::Result<Fetched> {
        self.given[0].fetch(url, within).await
    }

    /// The first link's [`Tunnel::accepted`].
    pub async fn accepted(&self, url: &str, within: Duration) -> io::Result<Duration> {
        self.given[0].accepted(url, within).await
    }

    /// The first link's [`Tunnel::open`].
    pub async fn open(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        self.given[0].open(host, port).await
    }

    /// The first link's [`Tunnel::hold`].
    pub async fn hold(&self, url: &str, within: Duration) -> io::Result<Held> {
        self.given[0].hold(url, within).await
    }

    /// What the client has said.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn slot_name(slot: usize) -> String {
    format!("slot-{slot}")
}

fn config(links: &[Link], slots: usize, socks: u16, api: u16) -> Value {
    let names: Vec<String> = (0..slots).map(slot_name).collect();
    // The first outbound takes what no rule leads elsewhere.
    let mut outbounds = vec![json!({ "tag": "nowhere", "protocol": "blackhole" })];
    outbounds.extend(links.iter().zip(&names).map(|(link, name)| link.outbound(name)));
    let rules: Vec<Value> =
        names.iter().map(|name| json!({ "type": "field", "user": [name], "outboundTag": name })).collect();
    let accounts: Vec<Value> = names.iter().map(|name| json!({ "user": name, "pass": "x" })).collect();
    json!({
        "log": { "loglevel": "warning", "access": "none" },
        "api": { "tag": "api", "listen": format!("127.0.0.1:{api}"), "services": ["HandlerService"] },
        "inbounds": [{
            "tag": "socks",
            "listen": "127.0.0.1",
            "port": socks,
            "protocol": "socks",
            "settings": { "auth": "password", "accounts": accounts },
        }],
        "outbounds": outbounds,
        "routing": { "domainStrategy": "AsIs", "rules": rules },
    })
}

/// Links are secrets, in tests too.
fn write_private(path: &Path, value: &Value) {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(path).unwrap();
    serde_json::to_writer(file, value).unwrap();
}
