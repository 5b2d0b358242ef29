//! Joined, changed, lost, returned.

use std::time::Duration;

use bus::Bus;
use contract::{
    Code, Protocol,
    fleet::{GetNode, Node, Presence},
};
use fleet::Config;
use testkit::wait::eventually;
use tokio::task::JoinHandle;

use crate::world::{Replica, SOON, World, announcement, create, events};

/// Short, and yet longer than a loaded machine lets a heartbeat wait.
const LOST_AFTER: Duration = Duration::from_millis(1_400);
/// As many to one [`LOST_AFTER`] as in production.
const HEARTBEAT: Duration = Duration::from_millis(300);

fn config() -> Config {
    Config { lost_after: LOST_AFTER }
}

/// An agent's heart; it stops when it is aborted.
fn beat(bus: &Bus, node: &str) -> JoinHandle<()> {
    let (bus, announcement) = (bus.clone(), announcement(node));
    tokio::spawn(async move {
        loop {
            let _ = bus.call(announcement.clone()).await;
            tokio::time::sleep(HEARTBEAT).await;
        }
    })
}

async fn node(bus: &Bus, name: &str) -> Node {
    bus.call(GetNode { name: name.parse().unwrap() }).await.unwrap()
}

async fn until(bus: &Bus, name: &str, online: bool) -> Node {
    eventually("the node's presence", SOON, async || {
        let node = bus.call(GetNode { name: name.parse().unwrap() }).await.ok()?;
        ((node.presence == Presence::Online) == online).then_some(node)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_lost_and_returns_when_it_is_heard() {
    let world = World::with(config()).await;
    // Heartbeats go to either replica: each must hear those that the other one answers.
    let other = Replica::start(&world.nats.url(), config()).await;
    let (n1, n2) = (beat(&world.bus, "n1"), beat(&world.bus, "n2"));
    let joined = until(&world.bus, "n1", true).await;
    until(&world.bus, "n2", true).await;

    n1.abort();
    let lost = until(&world.bus, "n1", false).await;
    assert_eq!((&lost.announced, lost.joined_at), (&joined.announced, joined.joined_at));
    assert_eq!(node(&world.bus, "n2").await.presence, Presence::Online);

    // What nobody chose goes to who is heard; what was chosen waits for its node, and that is said.
    let server = world.create(create("any", Protocol::Wireguard, 1)).await.unwrap();
    assert_eq!(server.node.as_str(), "n2");
    let mut chosen = create("chosen", Protocol::Wireguard, 1);
    chosen.node = Some("n1".parse().unwrap());
    let reply = world.bus.call(chosen).await.unwrap();
    assert!(reply.warnings[0].contains("n1 is not heard since"), "{:?}", reply.warnings);

    let n1 = beat(&world.bus, "n1");
    let returned = until(&world.bus, "n1", true).await;
    assert_eq!(returned, joined);
    n1.abort();
    n2.abort();
    until(&world.bus, "n1", false).await;
    until(&world.bus, "n2", false).await;
    let refused = world.create(create("late", Protocol::Wireguard, 9)).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_NO_NODE);
    assert!(refused.message.contains("n1") && refused.message.contains("n2"), "{}", refused.message);

    let of_n1: Vec<String> = events(&world.nats, "vpn_nodes")
        .await
        .into_iter()
        .filter_map(|(key, event)| (key == "n1").then_some(event))
        .collect();
    let expected = ["joined", "lost", "returned", "lost"].map(|event| format!("fleet.node_{event}"));
    assert_eq!(of_n1, expected, "each happened once, although two replicas looked");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_because_fleet_or_the_bus_was_away() {
    let mut world = World::with(config()).await;
    let n1 = beat(&world.bus, "n1");
    until(&world.bus, "n1", true).await;

    world.replica.stop().await;
    tokio::time::sleep(LOST_AFTER * 2).await;
    world.replica = Replica::start(&world.nats.url(), config()).await;
    assert_eq!(node(&world.bus, "n1").await.presence, Presence::Online, "after fleet was away");

    world.nats.kill();
    tokio::time::sleep(LOST_AFTER * 2).await;
    world.nats.restart().await;
    eventually("fleet answers again", SOON, async || {
        world.bus.call(GetNode { name: "n1".parse().unwrap() }).await
    })
    .await;
    // Time enough to be lost, if the silence of the outage counted.
    tokio::time::sleep(LOST_AFTER).await;
    assert_eq!(events(&world.nats, "vpn_nodes").await.len(), 1, "it joined, and nothing else happened");

    n1.abort();
    until(&world.bus, "n1", false).await;
}
