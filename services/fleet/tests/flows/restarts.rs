//! What was acknowledged is there after a restart of the service and of the bus.

use contract::{
    Code, Protocol,
    fleet::{DeleteServer, ListNodes, ListServers},
};
use fleet::Config;
use testkit::wait::eventually;

use crate::world::{Replica, SOON, World, create};

#[tokio::test]
async fn restarts_keep_everything() {
    let mut world = World::with_nodes(&["n1", "n2"]).await;
    for index in 0..20 {
        world.create(create(&format!("s{index}"), Protocol::Wireguard, 1_000 + index)).await.unwrap();
    }
    world.bus.call(DeleteServer { name: "s7".parse().unwrap() }).await.unwrap();
    let servers = world.servers().await;
    let nodes = world.bus.call(ListNodes {}).await.unwrap().nodes;
    assert_eq!((servers.len(), nodes.len()), (19, 2));

    world.replica.stop().await;
    assert_eq!(world.bus.call(ListServers::default()).await.unwrap_err().code, Code::BUS_NO_RESPONDERS);
    world.replica = Replica::start(&world.nats.url(), Config::default()).await;
    assert_eq!(world.servers().await, servers);
    assert_eq!(world.bus.call(ListNodes {}).await.unwrap().nodes, nodes);

    world.nats.kill();
    world.nats.restart().await;
    let listed =
        eventually("fleet answers", SOON, async || world.bus.call(ListServers::default()).await).await;
    assert_eq!(listed.servers, servers);

    // And it goes on: the port of the deleted one is free, that of another is not.
    let taken = world.create(create("late", Protocol::Wireguard, 1_000)).await;
    let port_free_everywhere = taken.is_ok();
    assert!(port_free_everywhere, "the other node has it free");
    let refused = world.create(create("later", Protocol::Wireguard, 1_000)).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_PORT_TAKEN);
    world.create(create("s7", Protocol::Wireguard, 1_007)).await.unwrap();
    assert_eq!(world.servers().await.len(), 21);
}

#[tokio::test]
async fn a_purged_bucket_takes_servers_again() {
    let mut world = World::with_nodes(&["n1"]).await;
    world.create(create("s1", Protocol::Wireguard, 1)).await.unwrap();
    world.replica.stop().await;
    let nats = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(nats).get_stream("KV_vpn_servers").await.unwrap();
    stream.purge().await.unwrap();
    world.replica = Replica::start(&world.nats.url(), Config::default()).await;
    assert!(world.servers().await.is_empty());
    world.create(create("s1", Protocol::Wireguard, 1)).await.unwrap();
}
