//! What users do not reach.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use runtime::engine::Engine as _;
use testkit::{sites::Target, wait::eventually, xray_client::XrayClient};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::{
    proxy::Proxy,
    server::{PROTOCOLS, SOON, Server, user},
};

/// A refusal is an end, not silence: this, and the time that two busy cores take.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// As long as a datagram on loopback could possibly be under way.
const NOTHING_COMES: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn private_destinations_are_refused_at_once_by_address_and_by_name_unless_allowed() {
    // The target answers on every address of this machine; only one of them is allowed.
    let target = Target::start_on("::".parse().unwrap()).await;
    let port = target.address().port();
    for protocol in PROTOCOLS {
        let alice = user(protocol, "alice");
        let server = Server::start_allowing(protocol, std::slice::from_ref(&alice), &["127.0.0.2/32"]).await;
        let client = XrayClient::start(&server.link(&alice)).await.unwrap();
        let url = |host: &str| format!("http://{host}:{port}/bytes/10");
        client.fetch(&url("127.0.0.2"), SOON).await.unwrap();
        client.fetch(&url("[::ffff:127.0.0.2]"), SOON).await.unwrap();

        let requests = target.requests();
        for private in [
            "127.0.0.1",
            "127.0.0.3",
            "127.255.255.254",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "10.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.0.1",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fd76:706e::1]",
            "224.0.0.1",
            "255.255.255.255",
            // Names, also those that are addresses in disguise.
            "localhost",
            "LOCALHOST.",
            "localhost.localdomain",
            "ip6-localhost",
            "127.1",
            "2130706433",
            "0x7f000001",
        ] {
            refused(&server, &client, &url(private)).await;
        }
        assert_eq!(target.requests(), requests, "{protocol}: a request arrived although its answer did not");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_range_is_reached_by_name_and_the_nodes_own_addresses_are_not() {
    let target = Target::start().await;
    let port = target.address().port();
    let (by_name, by_address) = (format!("http://localhost:{port}/bytes/10"), target.bytes_url(10));
    for protocol in PROTOCOLS {
        let alice = user(protocol, "alice");
        let mut server = Server::start(protocol, std::slice::from_ref(&alice)).await;
        let client = XrayClient::start(&server.link(&alice)).await.unwrap();
        client.fetch(&by_name, SOON).await.unwrap();

        // An address that would be public, had the node not said that it is its own.
        server.desired.server.allow_private.clear();
        server.desired.own_addresses = vec![Ipv4Addr::new(9, 9, 9, 9).into()];
        server.engine.save(&server.desired, std::slice::from_ref(&alice)).await.unwrap();
        server.restart_engine().await;
        for private in [&by_name, &by_address, "http://9.9.9.9:80/"] {
            refused(&server, &client, private).await;
        }
    }
}

/// The page does not come, and the server has ended the connection soon.
async fn refused(server: &Server, client: &XrayClient, url: &str) {
    let protocol = server.desired.server.protocol;
    let log_length = || std::fs::metadata(server.file("access.log")).unwrap().len();
    // Connections of pages that came may linger.
    let before = server.connections();
    let (started, length) = (Instant::now(), log_length());
    // Over Shadowsocks the client's program does not hear of it.
    let refused = async {
        eventually("the server judges it", SOON, async || log_length() > length).await;
        eventually("it ends", SOON, async || server.connections() <= before).await;
    };
    let fetched = tokio::select! {
        fetched = client.fetch(url, SOON) => fetched.is_ok(),
        () = refused => false,
    };
    assert!(!fetched, "{protocol}: {url} is reached");
    assert!(started.elapsed() < REFUSED_WITHIN, "{protocol}: {url} takes {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_reach_what_is_allowed_and_nothing_else_also_later_in_a_session() {
    let allowed = Echo::start("127.0.0.2").await;
    let private = Echo::start("127.0.0.3").await;
    for protocol in PROTOCOLS {
        let alice = user(protocol, "alice");
        let server = Server::start_allowing(protocol, std::slice::from_ref(&alice), &["127.0.0.2/32"]).await;
        let proxy = Proxy::start(&server.link(&alice), "127.0.0.1").await;

        let socket = proxy.datagrams().await;
        for size in [1, 500, 1400] {
            let payload = vec![b'x'; size];
            assert_eq!(socket.ask("127.0.0.2", allowed.port(), &payload).await, payload, "{protocol}");
        }
        // 26.3 asks its rules for the first datagram of a socket only.
        for _ in 0..5 {
            socket.send("127.0.0.3", private.port(), b"inside").await;
            socket.send("localhost", private.port(), b"inside").await;
        }
        // A socket that begins with what is private is none the wiser.
        let fresh = proxy.datagrams().await;
        for _ in 0..5 {
            fresh.send("127.0.0.3", private.port(), b"first").await;
            fresh.send("::ffff:127.0.0.3", private.port(), b"first").await;
            fresh.send("localhost", private.port(), b"first").await;
        }
        assert_eq!(fresh.receive(NOTHING_COMES).await, None, "{protocol}");
        assert_eq!(private.received(), 0, "{protocol}: a private destination got a datagram");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_a_removed_user_go_nowhere() {
    let echo = Echo::start("127.0.0.1").await;
    for protocol in PROTOCOLS {
        let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
        let server = Server::start(protocol, &[alice.clone(), bob.clone()]).await;
        let hers = Proxy::start(&server.link(&alice), "127.0.0.1").await;
        let his = Proxy::start(&server.link(&bob), "127.0.0.1").await;
        let (her_socket, his_socket) = (hers.datagrams().await, his.datagrams().await);
        for socket in [&her_socket, &his_socket] {
            socket.ask("127.0.0.1", echo.port(), b"before").await;
        }
        let by_name = hers.datagrams().await;
        assert_eq!(by_name.ask("localhost", echo.port(), b"a name").await, b"a name", "{protocol}");

        server.remove(&[&bob]).await;
        // Whatever was under way has arrived.
        while his_socket.receive(NOTHING_COMES).await.is_some() {}
        for _ in 0..5 {
            his_socket.send("127.0.0.1", echo.port(), b"after").await;
        }
        assert_eq!(his_socket.receive(NOTHING_COMES).await, None, "{protocol}: bob's session goes on");
        assert_eq!(her_socket.ask("127.0.0.1", echo.port(), b"after").await, b"after", "{protocol}");
    }
}

/// Sends every datagram back.
struct Echo {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Echo {
    async fn start(ip: &str) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let serving = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        });
        let echo = Self { address, received, serving };
        eventually("it echoes", SOON, async || {
            let probe = UdpSocket::bind("127.0.0.1:0").await?;
            probe.send_to(b"probe", address).await?;
            probe.recv(&mut [0; 16]).await
        })
        .await;
        echo.received.store(0, Ordering::Relaxed);
        echo
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
