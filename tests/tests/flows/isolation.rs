//! What users do not reach: anything private, unless their server names it.

use std::{
    net::IpAddr,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use contract::{Protocol, WireguardAddress, keys::Credentials};
use flows::programs::said;
use futures::{StreamExt as _, stream};
use testkit::{sites::Target, wait::eventually, wireguard_client::WireguardClient, xray_client::XrayClient};
use tokio::io::AsyncReadExt as _;

use crate::world::{SOON, World, name};

/// A page from next door takes milliseconds; what is refused in silence is waited for so long.
const NOTHING_COMES: Duration = Duration::from_millis(1000);
/// Of each private range an address in the network of the sites, reached by routes as a provider's own networks are.
/// No two tests have the same ones.
fn next_door() -> [String; 4] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (x, y) = (std::process::id() % 250 + 1, COUNT.fetch_add(1, Ordering::Relaxed) + 1);
    ["10.255", "172.31", "192.168", "169.254"].map(|range| format!("{range}.{x}.{y}"))
}

enum Client {
    Xray(XrayClient),
    Wireguard(WireguardClient),
}

impl Client {
    async fn of(world: &World, user: &str, server: &str, protocol: Protocol) -> Self {
        let link = world.link(user, server).await;
        match protocol {
            Protocol::Wireguard => Self::Wireguard(WireguardClient::connect(&link).await),
            _ => Self::Xray(XrayClient::start(&link).await.unwrap()),
        }
    }

    /// Whether a page comes.
    async fn fetches(&self, url: &str, within: Duration) -> bool {
        match self {
            Self::Xray(client) => client.fetch(url, within).await.is_ok(),
            Self::Wireguard(client) => client.fetch(url, within).await.is_ok(),
        }
    }

    /// Whether the bus greets, as it does whoever connects.
    async fn hears_the_bus(&self, host: &str, port: u16) -> bool {
        let greeting = async {
            let mut stream = match self {
                Self::Xray(client) => {
                    let mut stream = client.open(host, port).await?;
                    // The client connects to its server only when there is something to say.
                    tokio::io::AsyncWriteExt::write_all(&mut stream, b"PING\r\n").await?;
                    stream
                }
                Self::Wireguard(client) => {
                    let host: IpAddr = host.parse().map_err(std::io::Error::other)?;
                    client.open((host, port).into(), NOTHING_COMES).await?
                }
            };
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await?;
            std::io::Result::Ok(&greeting == b"INFO")
        };
        matches!(tokio::time::timeout(NOTHING_COMES, greeting).await, Ok(Ok(true)))
    }
}

/// The addresses that the node itself has at the moment, but for loopback.
fn own_addresses() -> Vec<String> {
    let listed = said(Command::new("ip").args(["-4", "-o", "addr", "show", "scope", "global"])).unwrap();
    let address = |line: &str| line.split("inet ").nth(1)?.split('/').next().map(str::to_owned);
    listed.lines().filter_map(address).collect()
}

/// What of `hosts` a client gets a page from.
async fn reached(client: &Client, hosts: &[String], port: u16, within: Duration) -> Vec<String> {
    stream::iter(hosts)
        .map(async |host| {
            let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            client.fetches(&format!("http://{shown}:{port}/bytes/10"), within).await.then(|| host.clone())
        })
        .buffer_unordered(8)
        .filter_map(async |host| host)
        .collect()
        .await
}

async fn isolated(backend: &str) {
    let world = World::on(backend).await;
    let next_door = next_door();
    for address in &next_door {
        world.internet.also_at(address.parse().unwrap());
    }
    // One site here and one next door, both on all addresses that there are.
    let here = Target::start_on("::".parse().unwrap()).await;
    let there = world.internet.host(|| Target::start_on("::".parse().unwrap())).await;
    let (here_port, there_port) = (here.address().port(), there.address().port());
    let bus_port: u16 = world.house.url().rsplit(':').next().unwrap().parse().unwrap();
    let own = own_addresses();
    assert!(!own.is_empty());
    world.create("alice").await;
    world.create("bob").await;

    for protocol in Protocol::ALL {
        let (closed, open) = (format!("closed-{protocol}"), format!("open-{protocol}"));
        world.serve_allowing(&closed, protocol, &[]).await;
        let ranges: Vec<String> = next_door.iter().map(|host| format!("{host}/32")).collect();
        world.serve_allowing(&open, protocol, &ranges.iter().map(String::as_str).collect::<Vec<_>>()).await;

        // What is named is reached: so the way there is good, and refusals below are refusals.
        let client = Client::of(&world, "alice", &open, protocol).await;
        eventually("the open server lets alice in", SOON, async || {
            client.fetches(&format!("http://{}:{there_port}/bytes/10", next_door[0]), NOTHING_COMES).await
        })
        .await;
        let got = reached(&client, &next_door, there_port, SOON).await;
        assert_eq!(got.len(), next_door.len(), "{backend}, {protocol}: reached only {got:?}");
        // And nothing beside it.
        let got = reached(&client, &own, here_port, NOTHING_COMES).await;
        assert!(got.is_empty(), "{backend}, {protocol}: the open server lets users reach {got:?}");

        let client = Client::of(&world, "alice", &closed, protocol).await;
        let (here_before, there_before) = (here.requests(), there.requests());
        let got = reached(&client, &next_door, there_port, NOTHING_COMES).await;
        assert!(got.is_empty(), "{backend}, {protocol}: {got:?} is reached");
        let mut hosts = own.clone();
        if protocol != Protocol::Wireguard {
            // A client's own kernel keeps these to itself; through a proxy they are the server's.
            let local =
                ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1", "localhost", "2130706433"];
            hosts.extend(local.map(str::to_owned));
        }
        hosts.extend(["169.254.169.254", "10.64.0.1", "100.64.0.1", "fd76:706e::1"].map(str::to_owned));
        let got = reached(&client, &hosts, here_port, NOTHING_COMES).await;
        assert!(got.is_empty(), "{backend}, {protocol}: {got:?} is reached");
        // A request that arrives although its answer does not would be as bad.
        assert_eq!((here.requests(), there.requests()), (here_before, there_before), "{backend}, {protocol}");
        for host in hosts.iter().take(own.len() + 1) {
            assert!(!client.hears_the_bus(host, bus_port).await, "{backend}, {protocol}: the bus at {host}");
        }
        println!("{backend}, {protocol}: none of {} addresses is reached", hosts.len() + next_door.len());
    }
    among_users(&world, &next_door[0]).await;
}

/// Users of one WireGuard server are in one subnet, and strangers to each other all the same.
async fn among_users(world: &World, next_door: &str) {
    let credentials = world.bus.own::<Credentials>().await.unwrap();
    let mut addresses = Vec::<WireguardAddress>::new();
    for user in ["alice", "bob"] {
        let held = credentials.get(name(user).as_str()).await.unwrap().unwrap().value.unwrap();
        addresses.push(held.wireguard.address);
    }
    let server = "open-wireguard";
    let alice = WireguardClient::connect(&world.link("alice", server).await).await;
    let bob = WireguardClient::connect(&world.link("bob", server).await).await;
    let site = bob.namespace().host(|| Target::start_on("::".parse().unwrap())).await;
    // Both are in: their handshakes are done, and the server knows where to find bob.
    let there = world.internet.host(|| Target::start_on("::".parse().unwrap())).await;
    let page = format!("http://{next_door}:{}/bytes/10", there.address().port());
    for client in [&alice, &bob] {
        eventually("both are in", SOON, async || client.fetch(&page, NOTHING_COMES).await).await;
    }
    for address in addresses[1].both() {
        let url = match address {
            IpAddr::V4(v4) => format!("http://{v4}:{}/bytes/10", site.address().port()),
            IpAddr::V6(v6) => format!("http://[{v6}]:{}/bytes/10", site.address().port()),
        };
        assert!(bob.fetch(&url, SOON).await.is_ok(), "bob's own site serves bob at {url}");
        assert!(alice.fetch(&url, NOTHING_COMES).await.is_err(), "alice reaches bob at {address}");
    }
    assert_eq!(site.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_child_processes_reach_nothing_private() {
    isolated("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_containers_reach_nothing_private() {
    isolated("docker").await;
}
