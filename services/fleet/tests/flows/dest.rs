//! What a node says of a REALITY dest. The agent here is a stand-in that answers as told: how a node looks at a
//! site is `runtime`'s to test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::Shutdown;
use contract::{
    Code, Error, Protocol,
    fleet::{CreateServer, Reality, UpdateServer},
    runtime::{DestProbed, ProbeDest},
};
use testkit::wait::eventually;

use crate::world::{SOON, World, create, update};

fn reality(dest: &str) -> Option<Reality> {
    let server_names = vec!["www.example.org".to_owned(), "example.org".to_owned()];
    Some(Reality { dest: dest.parse().unwrap(), server_names })
}

fn request(name: &str, port: u64, dest: &str) -> CreateServer {
    CreateServer { reality: reality(dest), ..create(name, Protocol::VlessReality, port) }
}

/// The dests that the stand-in was asked about.
type Asked = Arc<Mutex<Vec<String>>>;

async fn probe(asked: Arc<Mutex<Vec<String>>>, request: ProbeDest) -> Result<DestProbed, Error> {
    asked.lock().unwrap().push(format!("{} {}", request.dest, request.server_name));
    match request.dest.host() {
        "old.example.org" => Err(Error::new(Code::FLEET_DEST_NOT_TLS13, "it speaks TLS 1.2")),
        "away.example.org" => Err(Error::new(Code::RUNTIME_TARGET_UNREACHABLE, "no route")),
        "hangs.example.org" => std::future::pending().await,
        _ => Ok(DestProbed { handshake_millis: 1 }),
    }
}

async fn agent(world: &World, node: &str) -> (Asked, Shutdown) {
    let (asked, shutdown) = (Asked::default(), Shutdown::new());
    let service = world.bus.service("runtime", asked.clone()).at(node.parse().unwrap()).on(probe);
    let ending = shutdown.clone();
    tokio::spawn(async move { service.run(&ending).await });
    let ask = ProbeDest {
        node: node.parse().unwrap(),
        dest: "www.example.org:443".parse().unwrap(),
        server_name: "x".to_owned(),
    };
    eventually("the agent answers", SOON, async || world.bus.call(ask.clone()).await).await;
    asked.lock().unwrap().clear();
    (asked, shutdown)
}

#[tokio::test]
async fn a_dest_is_looked_at_from_the_node_and_only_when_it_changes() {
    let world = World::with_nodes(&["n1"]).await;
    let (asked, _agent) = agent(&world, "n1").await;
    let reply = world.bus.call(request("s1", 443, "www.example.org:443")).await.unwrap();
    assert!(reply.warnings.is_empty(), "{:?}", reply.warnings);
    assert_eq!(*asked.lock().unwrap(), ["www.example.org:443 www.example.org"]);

    let refused = world.bus.call(request("s2", 444, "old.example.org:443")).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::FLEET_DEST_NOT_TLS13, "it speaks TLS 1.2"));
    let moved = UpdateServer { reality: reality("old.example.org:443"), ..update("s1") };
    let refused = world.bus.call(moved).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_DEST_NOT_TLS13);
    assert_eq!(world.servers().await, [reply.server], "a refusal changes nothing");
    assert_eq!(asked.lock().unwrap().len(), 3);

    let same = UpdateServer {
        reality: reality("www.example.org:443"),
        port: Some(crate::world::port(445)),
        ..update("s1")
    };
    world.bus.call(same).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 3, "what stays is not looked at again");
    // What is refused for another reason is refused without a look outside.
    let refused = world.bus.call(request("s3", 445, "www.example.org:443")).await.unwrap_err();
    assert_eq!(refused.code, Code::FLEET_PORT_TAKEN);
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_a_warning() {
    let world = World::with_nodes(&["n1"]).await;
    let reply = world.bus.call(request("s1", 443, "www.example.org:443")).await.unwrap();
    assert_eq!(reply.warnings.len(), 1, "no agent answers");
    assert!(reply.warnings[0].contains("could not be checked from node n1"), "{:?}", reply.warnings);

    let (_, _agent) = agent(&world, "n1").await;
    let reply = world.bus.call(request("s2", 444, "away.example.org:443")).await.unwrap();
    assert!(reply.warnings[0].contains("no route"), "{:?}", reply.warnings);

    let before = std::time::Instant::now();
    let reply = world.bus.call(request("s3", 445, "hangs.example.org:443")).await.unwrap();
    assert!(reply.warnings[0].contains("did not answer within 3000 ms"), "{:?}", reply.warnings);
    assert!(before.elapsed() < Duration::from_secs(7), "within a caller's patience");
    assert_eq!(world.servers().await.len(), 3);
}

/// While a node looks at one server's dest, others are created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_dest_keeps_nobody_waiting_and_no_port() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    let (asked, _agent) = agent(&world, "n1").await;
    let bus = world.bus.clone();
    let slow = tokio::spawn(async move { bus.call(request("slow", 443, "hangs.example.org:443")).await });
    eventually("n1 is asked", SOON, async || !asked.lock().unwrap().is_empty()).await;
    let mut quick = create("quick", Protocol::Shadowsocks2022, 443);
    quick.node = Some("n1".parse().unwrap());
    world.create(quick).await.unwrap();
    assert!(!slow.is_finished(), "it was not waited for");
    // Its port went to another one meanwhile, so it went to another node, and says where it was looked at from.
    let reply = slow.await.unwrap().unwrap();
    assert_eq!(reply.server.node.as_str(), "n2");
    assert!(reply.warnings.iter().any(|text| text.contains("from node n1, and not from n2")));
}
