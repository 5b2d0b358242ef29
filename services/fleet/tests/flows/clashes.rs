//! Many at once: one port, one server; many heartbeats, one write.

use std::collections::BTreeSet;

use contract::{Code, Protocol, fleet::DeleteServer};
use fleet::Config;
use futures::future::join_all;

use crate::world::{Replica, World, announcement, client, create, events, port, update};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_that_want_one_port_one_gets_it() {
    let world = World::with_nodes(&["n1"]).await;
    // A second replica decides at the same time: only the bus can tell the two apart.
    let other = Replica::start(&world.nats.url(), Config::default()).await;
    let bus = client(&world.nats).await;
    let tasks = (0..50).map(|index| {
        let bus = bus.clone();
        tokio::spawn(async move { bus.call(create(&format!("s{index}"), Protocol::Wireguard, 51820)).await })
    });
    let results: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let (created, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    let winner = created.into_iter().next().unwrap().unwrap().server;
    for error in refused.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.code, Code::FLEET_PORT_TAKEN, "{error}");
        assert!(error.message.contains(winner.name.as_str()), "{error}");
    }
    assert_eq!(world.servers().await, [winner]);
    assert_eq!(events(&world.nats, "vpn_servers").await.len(), 1, "nothing else was ever stored");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_of_one_name_one_is_created() {
    let world = World::with_nodes(&["n1"]).await;
    let other = Replica::start(&world.nats.url(), Config::default()).await;
    let calls = (0..50).map(|index| world.create(create("s", Protocol::Wireguard, 1_000 + index)));
    let (created, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    assert!(refused.into_iter().all(|result| result.unwrap_err().code == Code::FLEET_SERVER_EXISTS));
    other.stop().await;
}

/// Creations, moves and deletions from two replicas on few ports: whatever came of them, no two are in each
/// other's way, at no moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_ever_hold_one_port() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    let other = Replica::start(&world.nats.url(), Config::default()).await;
    let works = (0..40_u64).map(|index| {
        let bus = world.bus.clone();
        async move {
            let name = format!("s{index}");
            let protocol = Protocol::ALL[(index % 3) as usize];
            let protocol = if protocol == Protocol::VlessReality { Protocol::Wireguard } else { protocol };
            let mut refusals = Vec::new();
            refusals.extend(bus.call(create(&name, protocol, 1 + index % 10)).await.err());
            let moved =
                contract::fleet::UpdateServer { port: Some(port(1 + index * 7 % 10)), ..update(&name) };
            refusals.extend(bus.call(moved).await.err());
            if index % 4 == 0 {
                refusals.extend(bus.call(DeleteServer { name: name.parse().unwrap() }).await.err());
            }
            refusals
        }
    });
    let expected = [Code::FLEET_PORT_TAKEN, Code::FLEET_SERVER_NOT_FOUND];
    for refusal in join_all(works).await.into_iter().flatten() {
        assert!(expected.contains(&refusal.code), "{refusal}");
    }

    // The history of the bucket is the history of the world: replay it.
    let nats = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(nats).get_stream("KV_vpn_servers").await.unwrap();
    let mut servers = std::collections::BTreeMap::new();
    let last = stream.cached_info().state.last_sequence;
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        match serde_json::from_slice::<contract::fleet::Server>(&message.payload) {
            Ok(server) => servers.insert(message.subject.to_string(), server),
            Err(_) => servers.remove(&message.subject.to_string()),
        };
        let mut held = BTreeSet::new();
        for server in servers.values() {
            for transport in server.protocol.transports() {
                let place = (server.node.clone(), server.port, *transport);
                assert!(held.insert(place), "at {sequence} two hold {} of {}", server.port, server.node);
            }
        }
    }
    assert!(last > 20, "{last} changes are too few to mean anything");
    assert_eq!(world.servers().await, servers.values().cloned().collect::<Vec<_>>());
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_heartbeats_at_once_are_written_once() {
    let world = World::start().await;
    let other = Replica::start(&world.nats.url(), Config::default()).await;
    for _ in 0..3 {
        let calls = (0..50).map(|_| world.bus.call(announcement("n1")));
        assert!(join_all(calls).await.into_iter().all(|result| result.is_ok()));
    }
    let mut changed = announcement("n1");
    changed.version = "0.2.0".to_owned();
    let calls = (0..50).map(|_| world.bus.call(changed.clone()));
    assert!(join_all(calls).await.into_iter().all(|result| result.is_ok()));
    let n1 = |event: &str| ("n1".to_owned(), event.to_owned());
    assert_eq!(events(&world.nats, "vpn_nodes").await, [n1("fleet.node_joined"), n1("fleet.node_changed")]);
    other.stop().await;
}
