//! What each request does, and the event it leaves.

use contract::{
    ByteCount, Code, Protocol, Timestamp,
    fleet::{
        DeleteServer, GetNode, GetServer, ListNodes, ListServers, Presence, Resources, Run, RunServer,
        ServerReply,
    },
};

use crate::world::{World, announcement, create, events, port, update};

#[tokio::test]
async fn a_server_lives_from_creation_to_deletion() {
    let world = World::with_nodes(&["n1"]).await;
    let before = Timestamp::now();
    let created = world.create(create("s1", Protocol::Wireguard, 51820)).await.unwrap();
    assert_eq!((created.node.as_str(), created.running, created.restarts), ("n1", true, 0));
    assert_eq!(created.resources, Resources::default());
    assert!(created.created_at >= before && created.created_at == created.updated_at);

    let get = || world.bus.call(GetServer { name: created.name.clone() });
    assert_eq!(get().await.unwrap(), created);
    assert_eq!(world.servers().await, std::slice::from_ref(&created));

    let changes = contract::fleet::UpdateServer {
        port: Some(port(51821)),
        resources: Some(Resources { memory: ByteCount::clamped(64 << 20), pids: 64 }),
        allow_private: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        image: Some("vpn-wireguard:2".parse().unwrap()),
        ..update("s1")
    };
    let ServerReply { server: updated, warnings } = world.bus.call(changes.clone()).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((updated.port, updated.resources.pids), (port(51821), 64));
    assert_eq!((updated.id, updated.created_at), (created.id, created.created_at));
    assert!(updated.updated_at > created.updated_at);
    assert_eq!(get().await.unwrap(), updated);
    // The same once more changes nothing, and leaves no event.
    assert_eq!(world.bus.call(changes).await.unwrap().server, updated);

    let run = |run| world.bus.call(RunServer { name: created.name.clone(), run });
    assert_eq!(run(Run::Start).await.unwrap(), updated, "it should run already");
    assert!(!run(Run::Stop).await.unwrap().running);
    assert!(!run(Run::Stop).await.unwrap().running);
    assert!(run(Run::Start).await.unwrap().running);
    assert_eq!(run(Run::Restart).await.unwrap().restarts, 1);
    run(Run::Stop).await.unwrap();
    let restarted = run(Run::Restart).await.unwrap();
    assert_eq!((restarted.running, restarted.restarts), (true, 2), "a restart starts what is stopped");

    let delete = || world.bus.call(DeleteServer { name: created.name.clone() });
    assert_eq!(delete().await.unwrap(), restarted, "as it was");
    assert_eq!(delete().await.unwrap_err().code, Code::FLEET_SERVER_NOT_FOUND);
    assert_eq!(get().await.unwrap_err().code, Code::FLEET_SERVER_NOT_FOUND);
    assert!(world.servers().await.is_empty());

    let again = world.create(create("s1", Protocol::Wireguard, 51821)).await.unwrap();
    assert_ne!(again.id, created.id, "another server of the same name");

    let happened: Vec<String> =
        events(&world.nats, "vpn_servers").await.into_iter().map(|(_, event)| event).collect();
    let expected = [
        "created",
        "updated",
        "stopped",
        "started",
        "restarted",
        "stopped",
        "restarted",
        "deleted",
        "created",
    ];
    assert_eq!(happened, expected.map(|event| format!("fleet.server_{event}")));
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let world = World::with_nodes(&["n1"]).await;
    let name: contract::ServerName = "nowhere".parse().unwrap();
    let run = RunServer { name: name.clone(), run: Run::Stop };
    let codes = [
        world.bus.call(GetServer { name: name.clone() }).await.unwrap_err().code,
        world.bus.call(DeleteServer { name }).await.unwrap_err().code,
        world.bus.call(run).await.unwrap_err().code,
        world.bus.call(update("nowhere")).await.unwrap_err().code,
    ];
    assert_eq!(codes, [const { Code::FLEET_SERVER_NOT_FOUND }; 4]);
    let missing = GetNode { name: "n2".parse().unwrap() };
    assert_eq!(world.bus.call(missing).await.unwrap_err().code, Code::FLEET_NODE_NOT_FOUND);
}

#[tokio::test]
async fn a_taken_name_says_what_has_it_since_when() {
    let world = World::with_nodes(&["n1"]).await;
    let created = world.create(create("s1", Protocol::Wireguard, 51820)).await.unwrap();
    let refused = world.create(create("s1", Protocol::Shadowsocks2022, 8388)).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_SERVER_EXISTS);
    let since = format!("{:.0}", created.created_at);
    for part in ["s1", "wireguard", "51820", "n1", since.as_str()] {
        assert!(refused.message.contains(part), "{part}: {}", refused.message);
    }
}

#[tokio::test]
async fn servers_spread_over_nodes_and_are_listed_by_name_and_node() {
    let world = World::start().await;
    let refused = world.create(create("a", Protocol::Wireguard, 1)).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_NO_NODE);
    for node in ["n2", "n1"] {
        world.bus.call(announcement(node)).await.unwrap();
    }
    let mut nodes = Vec::new();
    for (index, name) in ["d", "c", "b", "a"].into_iter().enumerate() {
        let created = world.create(create(name, Protocol::Wireguard, 1 + index as u64)).await.unwrap();
        nodes.push(created.node.to_string());
    }
    assert_eq!(nodes, ["n1", "n2", "n1", "n2"]);

    let names = |servers: &[contract::fleet::Server]| {
        servers.iter().map(|server| server.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&world.servers().await), ["a", "b", "c", "d"]);
    let on = |node: &str| ListServers { node: Some(node.parse().unwrap()) };
    assert_eq!(names(&world.bus.call(on("n1")).await.unwrap().servers), ["b", "d"]);
    assert!(world.bus.call(on("n3")).await.unwrap().servers.is_empty());

    let listed = world.bus.call(ListNodes {}).await.unwrap().nodes;
    assert_eq!(listed.iter().map(|node| node.announced.node.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
    assert!(listed.iter().all(|node| node.presence == Presence::Online));
    let one = world.bus.call(GetNode { name: "n2".parse().unwrap() }).await.unwrap();
    assert_eq!(one, listed[1]);
    assert_eq!(one.announced, announcement("n2"));
}

#[tokio::test]
async fn a_port_moves_only_to_where_it_is_free() {
    let world = World::with_nodes(&["n1"]).await;
    let tcp = create("udp", Protocol::Wireguard, 443);
    world.create(tcp).await.unwrap();
    world.create(create("both", Protocol::Shadowsocks2022, 8388)).await.unwrap();
    let to = |name, number| contract::fleet::UpdateServer { port: Some(port(number)), ..update(name) };

    let refused = world.bus.call(to("both", 443)).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_PORT_TAKEN);
    assert!(refused.message.contains("server udp"), "{}", refused.message);
    assert_eq!(world.bus.call(to("udp", 443)).await.unwrap().server.port, port(443), "where it is");

    world.bus.call(to("udp", 444)).await.unwrap();
    assert_eq!(world.bus.call(to("both", 443)).await.unwrap().server.port, port(443));
    let refused = world.create(create("late", Protocol::Wireguard, 443)).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_PORT_TAKEN);
    assert!(refused.message.contains("server both"), "{}", refused.message);
    world.bus.call(DeleteServer { name: "both".parse().unwrap() }).await.unwrap();
    world.create(create("late", Protocol::Wireguard, 443)).await.unwrap();
}
