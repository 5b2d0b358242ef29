//! Any part killed while users are being created: what was acknowledged is there, everybody has credentials, engines
//! have everybody, and nothing is there twice.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bus::Bus;
use contract::{
    Code, Protocol,
    fleet::{CreateServer, DeleteServer, ListServers},
    users::{CreateMany, Delete},
};
use flows::{
    House,
    house::{Plan, SERVICES},
    programs::said,
};
use futures::{StreamExt as _, stream};
use testkit::{ports, wait::eventually, wireguard_client::WireguardClient, xray_client::XrayClient};

use crate::{
    creation::{Creation, RECOVERS_WITHIN, insist, nobody_is_lost},
    world::{Dice, SOON, World, name, named},
};

/// Each part is killed so often.
const ROUNDS: usize = 2;
/// So many users leave meanwhile.
const LEAVERS: usize = 20;
/// Of the servers that come meanwhile, so many stay.
const STAY: usize = 5;
/// Users of one client.
const CLIENT: usize = 250;

/// Servers that come and go meanwhile. Of the first ones every third stays.
async fn servers_come_and_go(bus: Bus, enough: Arc<AtomicBool>) {
    for number in 0_usize.. {
        if enough.load(Ordering::Relaxed) {
            return;
        }
        let create = CreateServer {
            name: format!("extra-{number}").parse().unwrap(),
            protocol: Protocol::Shadowsocks2022,
            port: u64::from(ports::free()).try_into().unwrap(),
            node: None,
            image: None,
            reality: None,
            resources: None,
            allow_private: Vec::new(),
        };
        let name = create.name.clone();
        match insist(&bus, create).await {
            Err(error) if error.code != Code::FLEET_SERVER_EXISTS => panic!("{error}"),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        if number % 3 > 0 || number >= 3 * STAY {
            match insist(&bus, DeleteServer { name }).await {
                Err(error) if error.code != Code::FLEET_SERVER_NOT_FOUND => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// Users who are deleted one after another.
async fn users_leave(bus: Bus, users: Vec<String>) {
    for user in users {
        match insist(&bus, Delete { name: name(&user) }).await {
            // An earlier try has done it, and its answer was lost.
            Err(error) if error.code != Code::USERS_NOT_FOUND => panic!("{error}"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What can be killed.
pub(crate) async fn kill(house: &mut House, part: &'static str) {
    match part {
        "bus" => {
            let pid = fs::read_to_string(house.data().join("bus/pid")).unwrap();
            let line = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap();
            assert!(String::from_utf8_lossy(&line).contains(&*house.data().to_string_lossy()), "not ours");
            said(Command::new("kill").args(["-9", pid.trim()])).unwrap();
        }
        "nats" => {
            house.nats_server().kill();
            house.nats_server().restart().await;
        }
        service => {
            house.kill(service);
            house.begin(service);
        }
    }
}

async fn chaos(plan: Plan, parts: &[&'static str]) {
    let backend = plan.backend.clone();
    let dice = Arc::new(Dice::new());
    let mut world = World::with(plan).await;
    world.serve("reality", Protocol::VlessReality).await;
    world.serve("shadowsocks", Protocol::Shadowsocks2022).await;
    if backend == "process" {
        world.serve("wireguard", Protocol::Wireguard).await;
    }
    world.create("holder").await;
    let links = [world.link("holder", "reality").await, world.link("holder", "shadowsocks").await];
    let holder = XrayClient::many(&links).await.unwrap();
    let mut held = Vec::new();
    for tunnel in holder.tunnels() {
        tunnel.accepted(&world.page(), SOON).await.unwrap();
        for _ in 0..5 {
            held.push(tunnel.hold(&world.slow(), SOON).await.unwrap());
        }
    }
    let before = running(&world.house, &backend);
    let leavers: Vec<String> = (0..LEAVERS).map(|number| format!("leaver{number}")).collect();
    world.ask(CreateMany { users: leavers.iter().map(|user| named(user)).collect(), batch: None }).await;
    let links: Vec<String> =
        stream::iter(&leavers).map(|user| world.link(user, "shadowsocks")).buffered(8).collect().await;
    let leaving = XrayClient::many(&links).await.unwrap();
    for tunnel in leaving.tunnels() {
        tunnel.accepted(&world.page(), SOON).await.unwrap();
    }

    let creation = Creation::begin(&world.bus, &dice);
    let enough = Arc::new(AtomicBool::new(false));
    let servers = tokio::spawn(servers_come_and_go(world.bus.clone(), enough.clone()));
    let leave = tokio::spawn(users_leave(world.bus.clone(), leavers));
    let mut recovery = BTreeMap::<&str, Duration>::new();
    for part in (0..ROUNDS).flat_map(|_| parts.iter().copied()) {
        tokio::time::sleep(dice.millis(50..500)).await;
        let since = Instant::now();
        kill(&mut world.house, part).await;
        // Whoever asked in the moment of the kill waits for an answer that does not come; this one asks often, at
        // first.
        let probe = named(&format!("probe{}", since.elapsed().as_nanos()));
        let mut patience = Duration::from_millis(100);
        eventually("users are created again", RECOVERS_WITHIN, async || {
            patience = (2 * patience).min(Duration::from_secs(2));
            match world.bus.call_within(probe.clone(), patience).await {
                Err(error) if error.code != Code::USERS_NAME_TAKEN => Err(error),
                _ => Ok(()),
            }
        })
        .await;
        let took = since.elapsed();
        creation.goes_on(Instant::now()).await;
        let worst = recovery.entry(part).or_default();
        *worst = took.max(*worst);
    }
    enough.store(true, Ordering::Relaxed);
    servers.await.unwrap();
    leave.await.unwrap();
    let acknowledged = creation.end().await;
    println!("{backend}: the next user after a kill, at worst: {recovery:?}");
    world.house.ready().await;
    nobody_is_lost(&world.bus, &acknowledged).await;

    // Whoever left is out, whatever died in that moment.
    let page = world.page();
    stream::iter(leaving.tunnels())
        .for_each_concurrent(8, async |tunnel| {
            let out = async || tunnel.fetch(&page, Duration::from_secs(1)).await.is_err();
            eventually("a deleted user is out", SOON, out).await;
        })
        .await;
    // Engines have everybody: of two protocols some, of one all.
    let chosen: Vec<String> =
        (0..10).map(|_| acknowledged[dice.throw(acknowledged.len())].to_string()).collect();
    all_get_through(&world, "reality", &chosen).await;
    let all: Vec<String> = acknowledged.iter().map(ToString::to_string).collect();
    all_get_through(&world, "shadowsocks", &all).await;
    if backend == "process" {
        let client = WireguardClient::connect(&world.link(&chosen[0], "wireguard").await).await;
        eventually("WireGuard lets them in", SOON, async || client.fetch(&world.page(), SOON).await).await;
    }

    // Nothing is orphaned or doubled, and nobody had to start anew.
    let dropped = held.iter().filter(|held| !held.is_open()).count();
    assert_eq!(dropped, 0, "of {} connections", held.len());
    let desired = world.ask(ListServers::default()).await.servers;
    for server in &desired {
        world.house.runs(&world.bus, server.name.as_str()).await;
    }
    eventually("what runs is what should run", SOON, async || {
        let now = running(&world.house, &backend);
        let kept = before.iter().all(|id| now.contains(id));
        if kept && now.len() == desired.len() {
            Ok(())
        } else {
            Err(format!("{} desired: {now:?}", desired.len()))
        }
    })
    .await;
}

async fn all_get_through(world: &World, server: &str, users: &[String]) {
    let (since, page) = (Instant::now(), world.page());
    let links: Vec<String> =
        stream::iter(users).map(|user| world.link(user, server)).buffered(16).collect().await;
    // A client compares each connection with a rule for each of its users: not too many at once.
    for (links, users) in links.chunks(CLIENT).zip(users.chunks(CLIENT)) {
        let client = XrayClient::many(links).await.unwrap();
        stream::iter(client.tunnels().iter().zip(users))
            .for_each_concurrent(4, async |(tunnel, user)| {
                let fetch = async || tunnel.fetch(&page, Duration::from_secs(3)).await;
                eventually(&format!("{user} gets through {server}"), SOON, fetch).await;
            })
            .await;
    }
    println!("{} users got through {server} in {:?}", users.len(), since.elapsed());
}

/// What runs for the house's servers, one for each.
pub(crate) fn running(house: &House, backend: &str) -> Vec<String> {
    match backend {
        "docker" => house.containers().into_iter().map(|(id, is)| format!("{id} {is}")).collect(),
        _ => house.children().into_iter().map(|(pid, line)| format!("{pid} {line}")).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vpnd_all_and_its_bus_are_killed() {
    chaos(Plan::on("process"), &["all", "bus"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vpnd_all_and_its_bus_are_killed_with_containers() {
    chaos(Plan::on("docker"), &["all", "bus"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_and_the_bus_are_killed() {
    let parts: Vec<&str> = SERVICES.into_iter().chain(["nats"]).collect();
    chaos(Plan { apart: true, ..Plan::on("process") }, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_are_killed() {
    let dice = Arc::new(Dice::new());
    let world = World::on("process").await;
    for protocol in Protocol::ALL {
        world.serve(protocol.as_str(), protocol).await;
    }
    world.create("holder").await;
    let link = world.link("holder", "shadowsocks-2022").await;
    let holder = XrayClient::start(&link).await.unwrap();
    holder.accepted(&world.page(), SOON).await.unwrap();
    let creation = Creation::begin(&world.bus, &dice);
    let mut worst = Duration::ZERO;
    for _ in 0..3 {
        tokio::time::sleep(dice.millis(50..300)).await;
        let engines = world.house.children();
        assert_eq!(engines.len(), Protocol::ALL.len(), "{engines:?}");
        for pid in engines.keys() {
            said(Command::new("kill").args(["-9", &pid.to_string()])).unwrap();
        }
        let since = Instant::now();
        let fetch = async || holder.fetch(&world.page(), Duration::from_millis(200)).await;
        eventually("the engine serves again", SOON, fetch).await;
        worst = worst.max(since.elapsed());
        for protocol in Protocol::ALL {
            world.house.runs(&world.bus, protocol.as_str()).await;
        }
        eventually("one engine for each server", SOON, async || {
            let now = world.house.children();
            let new = now.keys().all(|pid| !engines.contains_key(pid));
            if new && now.len() == engines.len() { Ok(()) } else { Err(now) }
        })
        .await;
    }
    println!("an engine that was killed serves again after {worst:?} at worst");
    let acknowledged: Vec<String> = creation.end().await.iter().map(ToString::to_string).collect();
    all_get_through(&world, "shadowsocks-2022", &acknowledged).await;
    all_get_through(&world, "vless-reality", &acknowledged[acknowledged.len() - 20..]).await;
    let last = WireguardClient::connect(&world.link(&acknowledged[0], "wireguard").await).await;
    eventually("WireGuard lets them in", SOON, async || last.fetch(&world.page(), SOON).await).await;
}
