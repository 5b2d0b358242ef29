//! Who gets through, from when on and until when.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use contract::{
    Protocol,
    fleet::DeleteServer,
    keys::{Link, Rotate},
    users::{CreateMany, Delete, Resume, Suspend},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use testkit::{
    wait::eventually,
    wireguard_client::WireguardClient,
    xray_client::{Held, XrayClient},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinHandle};

use crate::world::{SOON, World, name, named};

/// What is promised for open sessions and for new ones alike.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// A page over the tunnel takes milliseconds; a busy machine is given this long before it counts as a refusal.
const PAGE_WITHIN: Duration = Duration::from_secs(3);
/// The target sends a byte every 50 ms: a session that says nothing for so long is none.
const SILENCE: Duration = Duration::from_millis(600);

/// One user's way through one server, whatever its protocol.
enum Way {
    Xray(XrayClient),
    Wireguard(WireguardClient),
}

impl Way {
    async fn by(protocol: Protocol, link: &str) -> Self {
        match protocol {
            Protocol::Wireguard => Self::Wireguard(WireguardClient::connect(link).await),
            Protocol::VlessReality | Protocol::Shadowsocks2022 => {
                Self::Xray(XrayClient::start(link).await.unwrap())
            }
        }
    }

    async fn fetch(&self, url: &str, within: Duration) -> io::Result<()> {
        match self {
            Self::Xray(client) => client.fetch(url, within).await.map(drop),
            Self::Wireguard(client) => client.fetch(url, within).await.map(drop),
        }
    }

    async fn accepted(&self, url: &str) {
        eventually("a page comes", SOON, async || self.fetch(url, PAGE_WITHIN).await).await;
    }

    async fn hold(&self, url: &str) -> Session {
        match self {
            Self::Xray(client) => Session::Xray(client.hold(url, SOON).await.unwrap()),
            Self::Wireguard(client) => Session::reading(client.hold(url, SOON).await.unwrap()),
        }
    }

    /// The start of the last new connection that got through, counted from `since`; returns when several in a row
    /// did not.
    async fn refused_after(&self, url: &str, since: Instant) -> Duration {
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
enum Session {
    Xray(Held),
    Wireguard(Arc<AtomicU64>, AbortOnDrop),
}

struct AbortOnDrop(JoinHandle<()>);

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

    fn is_open(&self) -> bool {
        match self {
            Self::Xray(held) => held.is_open(),
            Self::Wireguard(_, reading) => !reading.0.is_finished(),
        }
    }

    /// Waits until it is over; returns when its last byte came.
    async fn ended(&self) -> Instant {
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
    async fn goes_on(&self) {
        let before = self.bytes();
        eventually("the session goes on", SOON, async || self.bytes() > before).await;
        assert!(self.is_open());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_dropped_while_200_users_come_and_go() {
    /// Who holds connections to Xray's servers, and how many each.
    const HOLDERS: usize = 10;
    const EACH: usize = 5;
    const WIREGUARDS: usize = 2;
    let world = World::on("process").await;
    for protocol in Protocol::ALL {
        world.serve(protocol.as_str(), protocol).await;
    }
    let holders: Vec<String> = (0..HOLDERS).map(|number| format!("holder{number}")).collect();
    let users = holders.iter().map(|holder| named(holder)).collect();
    world.ask(CreateMany { users, batch: None }).await;
    let mut links = Vec::new();
    for server in [Protocol::VlessReality, Protocol::Shadowsocks2022] {
        for holder in &holders {
            links.push(world.link(holder, server.as_str()).await);
        }
    }
    let client = XrayClient::many(&links).await.unwrap();
    let mut held = Vec::new();
    for tunnel in client.tunnels() {
        tunnel.accepted(&world.page(), SOON).await.unwrap();
        for _ in 0..EACH {
            held.push(Session::Xray(tunnel.hold(&world.slow(), SOON).await.unwrap()));
        }
    }
    let mut clients = Vec::new();
    for holder in holders.iter().take(WIREGUARDS) {
        let way = Way::by(Protocol::Wireguard, &world.link(holder, "wireguard").await).await;
        held.push(way.hold(&world.slow()).await);
        clients.push(way);
    }
    assert_eq!(held.len(), 2 * HOLDERS * EACH + WIREGUARDS);
    let pids = world.house.children();

    let started = Instant::now();
    let bus = &world.bus;
    stream::iter(0..200)
        .map(async |number| {
            let user = format!("guest{number}");
            bus.call(named(&user)).await?;
            // Some go before they are let in, some after.
            if number % 2 == 0 {
                let request = Link { user: name(&user), server: None };
                eventually("its links", SOON, async || bus.call(request.clone()).await).await;
            }
            bus.call(Delete { name: name(&user) }).await
        })
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let took = started.elapsed();
    // The last of them came through all servers, and is out of them again.
    let last = world.create("last").await;
    for protocol in Protocol::ALL {
        let way = Way::by(protocol, &world.link("last", protocol.as_str()).await).await;
        way.accepted(&world.page()).await;
    }
    world.ask(Delete { name: last.name }).await;

    let dropped = held.iter().filter(|session| !session.is_open()).count();
    println!("{} connections held, 200 users came and went in {took:?}, {dropped} drops", held.len());
    assert_eq!(dropped, 0);
    for session in &held {
        session.goes_on().await;
    }
    assert_eq!(world.house.children(), pids, "an engine was started anew");
}

/// Suspended, rotated, deleted: the open session ends, new ones are refused, and nobody else notices.
async fn access_ends(world: &World, protocol: Protocol) {
    let server = format!("ends-{protocol}");
    world.serve(&server, protocol).await;
    let (alice, bob) = (format!("alice-{protocol}"), format!("bob-{protocol}"));
    world.create(&alice).await;
    world.create(&bob).await;
    let bobs = Way::by(protocol, &world.link(&bob, &server).await).await;
    bobs.accepted(&world.page()).await;
    let bystander = bobs.hold(&world.slow()).await;
    let way = Way::by(protocol, &world.link(&alice, &server).await).await;
    let page = world.page();

    way.accepted(&page).await;
    let open = way.hold(&world.slow()).await;
    let reason = Some("unpaid".parse().unwrap());
    world.ask(Suspend { name: name(&alice), reason }).await;
    report(&way, open, &page, protocol, "suspended").await;

    world.ask(Resume { name: name(&alice) }).await;
    way.accepted(&page).await;

    let open = way.hold(&world.slow()).await;
    world.ask(Rotate { user: name(&alice) }).await;
    report(&way, open, &page, protocol, "rotated").await;
    let way = Way::by(protocol, &world.link(&alice, &server).await).await;
    way.accepted(&page).await;

    let open = way.hold(&world.slow()).await;
    world.ask(Delete { name: name(&alice) }).await;
    report(&way, open, &page, protocol, "deleted").await;

    // Another user of the same name is another user.
    world.create(&alice).await;
    let new = Way::by(protocol, &world.link(&alice, &server).await).await;
    new.accepted(&page).await;
    assert!(way.fetch(&page, Duration::from_secs(1)).await.is_err(), "the old link of {alice} is good again");
    assert!(bystander.is_open(), "{bob} was dropped");
    bystander.goes_on().await;
}

async fn report(way: &Way, open: Session, page: &str, protocol: Protocol, what: &str) {
    let since = Instant::now();
    let (ended, refused) = tokio::join!(open.ended(), way.refused_after(page, since));
    let ended = ended.saturating_duration_since(since);
    println!(
        "{protocol}, {what}: session over after {ended:?}, last new connection let in after {refused:?}"
    );
    assert!(ended < ENDS_WITHIN, "{protocol}, {what}: the session went on for {ended:?}");
    assert!(refused < ENDS_WITHIN, "{protocol}, {what}: new connections for {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_ends_for_child_processes() {
    let world = World::on("process").await;
    for protocol in Protocol::ALL {
        access_ends(&world, protocol).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_ends_for_containers() {
    let world = World::on("docker").await;
    access_ends(&world, Protocol::VlessReality).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_takes_no_other_along() {
    let world = World::on("process").await;
    for protocol in Protocol::ALL {
        for server in [format!("stays-{protocol}"), format!("goes-{protocol}")] {
            world.serve(&server, protocol).await;
        }
    }
    world.create("alice").await;
    for protocol in Protocol::ALL {
        let stays = Way::by(protocol, &world.link("alice", &format!("stays-{protocol}")).await).await;
        let goes = Way::by(protocol, &world.link("alice", &format!("goes-{protocol}")).await).await;
        stays.accepted(&world.page()).await;
        goes.accepted(&world.page()).await;
        let (kept, lost) = (stays.hold(&world.slow()).await, goes.hold(&world.slow()).await);
        world.ask(DeleteServer { name: format!("goes-{protocol}").parse().unwrap() }).await;
        let since = Instant::now();
        let ended = lost.ended().await.saturating_duration_since(since);
        assert!(goes.fetch(&world.page(), Duration::from_secs(1)).await.is_err());
        println!("{protocol}: the deleted server's session was over after {ended:?}");
        kept.goes_on().await;
        stays.accepted(&world.page()).await;
    }
}
