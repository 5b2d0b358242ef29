//! Who gets through, from when on and until when.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use contract::{
    Protocol, Timestamp,
    fleet::DeleteServer,
    keys::{Link, Rotate},
    users::{Create, CreateMany, Delete, Resume, Suspend},
};
use flows::{house::Plan, programs::said};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use testkit::{programs::program, wait::eventually, xray_client::XrayClient};

use crate::{
    way::{Session, Way},
    world::{SOON, World, name, named},
};

/// What is promised for open sessions and for new ones alike.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// An engine that started anew has got to know in this time, one by one, the first of those who are to come.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

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

#[tokio::test(flavor = "multi_thread")]
async fn access_ends_when_its_time_is_over() {
    let world = World::on("process").await;
    for protocol in Protocol::ALL {
        world.serve(protocol.as_str(), protocol).await;
        // Long enough to get in.
        let time = Duration::from_secs(4);
        let (over, guest) = (Instant::now() + time, format!("guest-{protocol}"));
        world.ask(Create { expires_at: Some(Timestamp::now() + time), ..named(&guest) }).await;
        let way = Way::by(protocol, &world.link(&guest, protocol.as_str()).await).await;
        way.accepted(&world.page()).await;
        let open = way.hold(&world.slow()).await;
        tokio::time::sleep_until(over.into()).await;
        report(&way, open, &world.page(), protocol, "expired").await;
    }
}

/// Engines know keys before they have an owner: who gets one is in without anybody's doing.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_is_in_while_the_agent_is_away() {
    let protocol = Protocol::Shadowsocks2022;
    let mut world = World::with(Plan { apart: true, ..Plan::on("process") }).await;
    world.serve("server", protocol).await;
    eventually("the engine knows the first of those who are to come", SOON, async || {
        let known = users_in_engine(world.house.run_dir());
        if known > 4 { Ok(()) } else { Err(format!("it knows {known}")) }
    })
    .await;
    world.house.kill("runtime");
    world.create("alice").await;
    let way = Way::by(protocol, &world.link("alice", "server").await).await;
    way.accepted(&world.page()).await;
    // It finds her there.
    world.house.begin("runtime");
    world.create("bob").await;
    let bobs = Way::by(protocol, &world.link("bob", "server").await).await;
    bobs.accepted(&world.page()).await;
    way.accepted(&world.page()).await;
}

/// As Xray's own command line counts them.
fn users_in_engine(run_dir: PathBuf) -> usize {
    let mut servers = fs::read_dir(run_dir).unwrap().map(|entry| entry.unwrap().path().join("api.sock"));
    let socket = servers.find(|socket| socket.exists()).expect("an engine");
    let server = format!("--server=unix://{}", socket.display());
    let mut count = Command::new(program("xray"));
    let answer = said(count.args(["api", "inboundusercount", &server, "--tag=vpn-in"])).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    usize::try_from(answer["count"].as_u64().unwrap()).unwrap()
}

/// Engines know keys before they have an owner. A key that somebody had is nobody's to come.
#[tokio::test(flavor = "multi_thread")]
async fn who_lost_access_gets_none_from_an_agent_or_engine_that_starts_anew() {
    let protocol = Protocol::Shadowsocks2022;
    let mut world = World::with(Plan { apart: true, ..Plan::on("process") }).await;
    world.serve("server", protocol).await;
    let mut ways = Vec::new();
    for user in ["suspended", "deleted", "rotated"] {
        world.create(user).await;
        let way = Way::by(protocol, &world.link(user, "server").await).await;
        way.accepted(&world.page()).await;
        ways.push((user, way));
    }
    world.ask(Suspend { name: name("suspended"), reason: None }).await;
    world.ask(Delete { name: name("deleted") }).await;
    world.ask(Rotate { user: name("rotated") }).await;

    for killed in ["engine", "agent"] {
        match killed {
            "engine" => {
                for pid in world.house.children().into_keys() {
                    said(Command::new("kill").args(["-9", &pid.to_string()])).unwrap();
                }
            }
            _ => {
                world.house.kill("runtime");
                world.house.begin("runtime");
            }
        }
        // Two are let in one after the other, so the engine has been told of those who are to come.
        for number in 0..2 {
            let user = format!("new{number}-{killed}");
            world.create(&user).await;
            let way = Way::by(protocol, &world.link(&user, "server").await).await;
            way.accepted(&world.page()).await;
        }
        tokio::time::sleep(KNOWN_WITHIN).await;
        for (user, way) in &ways {
            let fetched = way.fetch(&world.page(), Duration::from_secs(1)).await;
            assert!(fetched.is_err(), "{user} is let in again after the {killed} was killed");
        }
    }
}
