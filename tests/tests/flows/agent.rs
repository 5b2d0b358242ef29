//! An agent that dies, and comes back without the bus: who is connected notices nothing.

use std::{fs, process::Command, time::Duration};

use contract::{Protocol, fleet::DeleteServer};
use flows::{house::Plan, programs::said};
use testkit::{wait::eventually, xray_client::XrayClient};

use crate::{
    chaos::running,
    creation::insist,
    way::Way,
    world::{SOON, World, named},
};

/// An engine that was killed is started again while its clients still try.
const RESTARTED_WITHIN: Duration = Duration::from_secs(10);

/// Kills the agent's process, and starts it again: its instances are the same ones.
async fn adopted(backend: &str) {
    let mut world = World::on(backend).await;
    for protocol in Protocol::ALL {
        world.serve(protocol.as_str(), protocol).await;
    }
    world.create("alice").await;
    let mut held = Vec::new();
    for protocol in Protocol::ALL {
        let way = Way::by(protocol, &world.link("alice", protocol.as_str()).await).await;
        way.accepted(&world.page()).await;
        held.push((way.hold(&world.slow()).await, way));
    }
    let before = running(&world.house, backend);
    assert_eq!(before.len(), Protocol::ALL.len(), "{before:?}");
    for round in 0..3 {
        world.house.restart().await;
        // Whoever comes now is let in by engines that were there before.
        let user = format!("bob{round}");
        world.create(&user).await;
        for protocol in Protocol::ALL {
            let late = Way::by(protocol, &world.link(&user, protocol.as_str()).await).await;
            late.accepted(&world.page()).await;
        }
    }
    assert_eq!(running(&world.house, backend), before);
    for (session, _) in &held {
        session.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_adopts_its_children() {
    adopted("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_adopts_its_containers() {
    adopted("docker").await;
}

/// Whether the agent has kept a user with her credentials: those are her second mention.
pub(crate) fn knows(world: &World, user: &str) -> bool {
    let saved = world.house.data().join("runtime/desired.json");
    fs::read_to_string(saved).is_ok_and(|text| text.matches(&format!("\"{user}\"")).count() > 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_serves_nothing_knows_nobody() {
    let world = World::on("process").await;
    world.create("alice").await;
    for round in 0..2 {
        // The second time she has been forgotten in between.
        let server = format!("server{round}");
        world.serve(&server, Protocol::Shadowsocks2022).await;
        let client = XrayClient::start(&world.link("alice", &server).await).await.unwrap();
        client.accepted(&world.page(), SOON).await.unwrap();
        eventually("the agent knows who may connect", SOON, async || knows(&world, "alice")).await;
        world.ask(DeleteServer { name: server.parse().unwrap() }).await;
        eventually("the agent forgets them", SOON, async || !knows(&world, "alice")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_without_the_bus_what_it_was_told_last() {
    let mut world = World::with(Plan { apart: true, ..Plan::on("process") }).await;
    world.serve("reality", Protocol::VlessReality).await;
    world.serve("shadowsocks", Protocol::Shadowsocks2022).await;
    world.create("alice").await;
    let links = [world.link("alice", "reality").await, world.link("alice", "shadowsocks").await];
    let client = XrayClient::many(&links).await.unwrap();
    for tunnel in client.tunnels() {
        tunnel.accepted(&world.page(), SOON).await.unwrap();
    }
    eventually("the agent has saved what it knows", SOON, async || knows(&world, "alice")).await;

    world.house.nats_server().kill();
    world.house.kill("runtime");
    let engines = world.house.children();
    assert_eq!(engines.len(), 2, "{engines:?}");
    for tunnel in client.tunnels() {
        tunnel.fetch(&world.page(), SOON).await.expect("engines serve without agent and bus");
    }
    world.house.begin("runtime");
    for tunnel in client.tunnels() {
        tunnel.fetch(&world.page(), SOON).await.expect("engines serve without the bus");
    }
    for pid in engines.keys() {
        said(Command::new("kill").args(["-9", &pid.to_string()])).unwrap();
    }
    for (tunnel, protocol) in client.tunnels().iter().zip(["reality", "shadowsocks"]) {
        let accepted = tunnel.accepted(&world.page(), RESTARTED_WITHIN).await;
        let took = accepted.unwrap_or_else(|error| panic!("{protocol} is not started again: {error}"));
        println!("without the bus, {protocol} serves {took:?} after it was killed");
    }
    let restarted = world.house.children();
    assert!(restarted.len() == 2 && restarted.keys().all(|pid| !engines.contains_key(pid)), "{restarted:?}");

    // What happened meanwhile elsewhere is caught up with.
    world.house.nats_server().restart().await;
    world.house.ready().await;
    insist(&world.bus, named("bob")).await.unwrap();
    let late = client.add(&world.link("bob", "shadowsocks").await).await.unwrap();
    late.accepted(&world.page(), SOON).await.unwrap();
    assert_eq!(world.house.children(), restarted, "the bus came back, and engines were started anew");
}
