use std::{fs, thread, time::Duration};

use contract::Code;
use nix::sched::{CloneFlags, setns};
use runtime::engine::{
    Engine as _,
    wireguard::{self, DeviceConfig, run_device},
};
use testkit::{netns::Namespace, wait::eventually};

use crate::world::{Node, PAGE_WITHIN, PUBLIC_V4, PUBLIC_V6, User, World, adapter, device, engine_server};

/// The device, its tasks and its buffers; the most of it is what the page left in buffers.
const MEMORY: u64 = 40 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn the_device_may_do_nothing_and_is_small() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let pid = node.device.pid();
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(value(&status, set), "0000000000000000", "{set} of {}", value(&status, "Name"));
        }
        assert_eq!(value(&status, "NoNewPrivs"), "1");
        assert_eq!(value(&status, "Uid"), "65532\t65532\t65532\t65532");
        assert_eq!(value(&status, "Groups"), "");
        threads += 1;
    }
    assert!(threads > 1, "the engine's threads were looked at as well");

    let empty = memory(pid);
    let user = User::new(2);
    node.add(&[&user]).await;
    let client = node.client(&world, &user).await;
    client.fetch(&world.page(PUBLIC_V4, 50_000_000), PAGE_WITHIN).await.unwrap();
    let used = memory(pid);
    println!("memory: {empty} kB without a user, {used} kB after 50 MB");
    assert!(used < MEMORY, "{used} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_kept_its_rights_is_noticed() {
    let network = Namespace::new();
    let run_dir = tempfile::tempdir().unwrap();
    let config = DeviceConfig {
        run_dir: run_dir.path().to_owned(),
        interface: "vpn-test".to_owned(),
        port: 51820.try_into().unwrap(),
        allow: Vec::new(),
        deny: Vec::new(),
    };
    // The test's other threads are such threads. The one that tries it gives up its own rights, and ends.
    let entrance = fs::File::open(format!("/run/netns/{}", network.name())).unwrap();
    let tried = thread::spawn(move || {
        setns(entrance, CloneFlags::CLONE_NEWNET).unwrap();
        run_device(&config)
    });
    let error = tried.join().unwrap().unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_ENGINE_FAILED);
    assert!(error.message.contains("has kept capabilities"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_behind() {
    let world = World::new().await;
    let mut node = Node::start(&world).await;
    let user = User::new(2);
    node.add(&[&user]).await;
    let interface = node.interface();
    assert!(world.server.run("nft list tables").contains(&interface));

    node.device.kill();
    assert_eq!(left(&world, &interface), Vec::<String>::new());
    node.restart(&world, &[&user]).await;
    let client = node.client(&world, &user).await;
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();

    let ended = node.device.stop(Duration::from_secs(5));
    assert!(ended.success(), "{ended}");
    assert_eq!(left(&world, &interface), Vec::<String>::new());

    // What is left has no effect, and goes when it is asked to go.
    assert!(world.server.ip("rule").contains("fwmark"));
    clear(&world, &node).await;
    assert!(!world.server.ip("rule").contains("fwmark") && !world.server.ip("-6 rule").contains("fwmark"));
    clear(&world, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_that_drops_lets_users_through() {
    let world = World::new().await;
    // As Docker leaves it, and as an administrator may.
    world.server.run("iptables -P FORWARD DROP");
    world.server.run("iptables -N DOCKER-USER");
    world.server.run("iptables -A DOCKER-USER -j RETURN");
    world.server.run("iptables -A FORWARD -j DOCKER-USER");
    world.server.run("ip6tables -P FORWARD DROP");
    let before = world.server.run("iptables-save") + &world.server.run("ip6tables-save");

    let mut node = Node::start(&world).await;
    let user = User::new(2);
    node.add(&[&user]).await;
    let client = node.client(&world, &user).await;
    for host in [PUBLIC_V4, PUBLIC_V6] {
        client.fetch(&world.page(host, 1), PAGE_WITHIN).await.unwrap();
    }
    let interface = node.interface();
    let rules = |chain: &str| {
        let rules = world.server.run(&format!("iptables -S {chain}"));
        rules.lines().filter(|rule| rule.contains(&interface)).count()
    };
    assert_eq!((rules("DOCKER-USER"), rules("FORWARD")), (2, 0));
    node.device.kill();
    node.restart(&world, &[&user]).await;
    assert_eq!(rules("DOCKER-USER"), 2);
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();

    node.device.kill();
    clear(&world, &node).await;
    let after = world.server.run("iptables-save") + &world.server.run("ip6tables-save");
    let rules = |saved: &str| {
        saved.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rules(&before), rules(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let run_dir = tempfile::tempdir().unwrap();
    let server = engine_server(node.server.server.port.get());
    let mut second = device(&world, &adapter(run_dir.path(), &server));
    let ended = eventually("it ends", PAGE_WITHIN, async || second.ended()).await;
    assert!(!ended.success());
    let words = format!("UDP port {} is in use", node.server.server.port);
    assert!(
        second.log().contains(&words) && second.log().contains(Code::RUNTIME_PORT_IN_USE.as_str()),
        "{}",
        second.log()
    );
    // And the first is none the worse for it.
    let user = User::new(2);
    node.add(&[&user]).await;
    let client = node.client(&world, &user).await;
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_there_is_said() {
    let world = World::new().await;
    let mut node = Node::start(&world).await;
    node.device.kill();
    let user = User::new(2).engine_user();
    let error = node.adapter.add(&[user], 0).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_ENGINE_FAILED);
    node.adapter.prepare(&node.server, &[]).await.unwrap();
    let soon = tokio::time::Instant::now() + Duration::from_millis(50);
    assert_eq!(node.adapter.ready(soon).await.unwrap_err().code, Code::RUNTIME_ENGINE_FAILED);
}

/// The traces of a device that must go with it.
fn left(world: &World, interface: &str) -> Vec<String> {
    let tables = world.server.run("nft list tables");
    let links = world.server.ip("-o link");
    let routes = world.server.ip("route show table all") + &world.server.ip("-6 route show table all");
    [tables, links, routes]
        .iter()
        .flat_map(|listing| listing.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.contains(interface))
        .collect()
}

/// The agent would do it in its own network; a test's device is in another.
async fn clear(world: &World, node: &Node) {
    let id = node.server.server.id;
    world.server.host(move || async move { wireguard::clear(&id).await.unwrap() }).await;
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    value(&status, "VmRSS").trim_end_matches(" kB").parse().unwrap()
}

fn value<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim()
}
