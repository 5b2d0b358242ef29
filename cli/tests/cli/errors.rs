use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{nats::NatsServer, ports, process::Process, wait::eventually};

use crate::world::{SOON, Vpn, World};

/// What the house promises for every refusal.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_cannot_be_used_is_told_at_once() {
    let nobody = Vpn::new(&format!("nats://alice:secret@127.0.0.1:{}", ports::free()));
    let begun = Instant::now();
    let ran = nobody.run(["users", "list"]);
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(69), "bus.unreachable"), "{ran:?}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert!(!ran.err.contains("secret"), "{ran:?}");
    assert!(
        ran.err.contains("\nhelp: ") && ran.err.contains("\nmore: vpn explain bus.unreachable"),
        "{ran:?}"
    );

    // Something listens, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    assert_eq!(Vpn::new(&url).refused("status --timeout 300ms", 69), "bus.unreachable");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());

    let bare = NatsServer::options().without_jetstream().start().await;
    assert_eq!(Vpn::new(&bare.url()).refused("users list", 69), "bus.no_jetstream");
    let old = NatsServer::options().old().start().await;
    let doctor = Vpn::new(&old.url()).run(["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    assert!(doctor.out.contains("fail   bus.too_old: "), "{doctor:?}");
    let guarded = NatsServer::options().config("authorization { token: wanted }").start().await;
    assert_eq!(Vpn::new(&guarded.url()).refused("users list", 77), "bus.not_allowed");
    let empty = NatsServer::start().await;
    let begun = Instant::now();
    let vpn = Vpn::new(&empty.url());
    assert_eq!(vpn.refused("users list", 69), "bus.no_responders");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // Somebody listens, and never answers.
    let _deaf = Process::start("nats", ["-s", &empty.url(), "sub", "vpn.users.list"]);
    let late = async || vpn.run("users list --timeout 300ms".split(' ')).code == Some(75);
    eventually("no answer in time", SOON, late).await;
    assert_eq!(vpn.refused("users list --timeout 300ms", 75), "bus.timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_never_leave_the_machine() {
    // No bus is there: what is refused here was refused before one was looked for.
    let vpn = Vpn::new("nats://127.0.0.1:1");
    let long = "a".repeat(10_000);
    for (line, code) in [
        ("users create ../x", "users.name_invalid"),
        ("users create Al*ce", "users.name_invalid"),
        ("users create \u{202e}alice", "users.name_invalid"),
        (&format!("users create {long}"), "users.name_invalid"),
        ("users create alice --quota -1GB", "cli.usage"),
        ("users create alice --quota=-1GB", "users.quota_invalid"),
        ("users create alice --quota 99999999999TB", "users.quota_invalid"),
        ("users create alice --expires soon", "cli.usage"),
        ("users create alice --tag a/b", "users.tag_invalid"),
        ("users create", "cli.usage"),
        ("users creat alice", "cli.usage"),
        ("users update alice", "cli.usage"),
        ("servers create s --protocol wireguard --port 0", "fleet.port_invalid"),
        ("servers create s --protocol wireguard --allow-private all", "cli.usage"),
        ("users list --timeout never", "cli.usage"),
        ("users list -o xml", "cli.usage"),
        ("users list --context nothing", "cli.context_invalid"),
    ] {
        let shown: String = line.chars().take(60).collect();
        let ran = vpn.run(line.split(' '));
        assert_eq!((ran.code, ran.error_code().as_str()), (Some(2), code), "{shown}: {ran:?}");
        assert!(!ran.err.contains('\u{202e}') && ran.err.len() < 600, "{shown}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_block_or_one_value() {
    let World { vpn, .. } = &World::start().await;
    vpn.ok("users create alice");
    let ran = vpn.run(["users", "create", "alice"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].starts_with("error[users.name_taken]: ") && lines[0].contains("alice"), "{ran:?}");
    assert!(
        ran.err.contains("\nhelp: ") && ran.err.contains("\nmore: vpn explain users.name_taken\n"),
        "{ran:?}"
    );
    let trace = lines.last().unwrap().strip_prefix("trace: ").unwrap();
    assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ran:?}");

    let ran = vpn.run("users create alice -o json".split(' '));
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["code"], "users.name_taken");
    assert_eq!(error["docs"], "docs/errors.md#usersname_taken");
    let ran = vpn.run("users create alice -o yaml".split(' '));
    let error: Value = serde_saphyr::from_str(&ran.err).unwrap();
    assert_eq!(error["trace"].as_str().unwrap().len(), 32);
    assert_eq!(vpn.refused("users create bob --expires 2020-01-01", 1), "users.expiry_past");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contexts_of_the_nats_command_are_ours() {
    let world = World::start().await;
    let vpn = Vpn::new("");
    let folder = vpn.home().join(".config/nats/context");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("house.json"), format!(r#"{{"url": "{}"}}"#, world.nats.url())).unwrap();
    std::fs::write(folder.parent().unwrap().join("context.txt"), "house").unwrap();
    vpn.ok("users list");
    vpn.ok("users list --context house");
    assert_eq!(vpn.refused("users list --nats nats://127.0.0.1:1", 69), "bus.unreachable");
}
