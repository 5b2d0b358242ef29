//! What a person does with the `nats` command: ask, look who serves, read and follow state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::{
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bus::{Bus, Config, Shutdown};
use contract::users::{List, User};
use testkit::{nats::NatsServer, process::Process, programs::program, wait::eventually};

const SOON: Duration = Duration::from_secs(20);

/// The command with a home of its own, so that nobody's contexts matter.
fn nats(server: &NatsServer, home: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program("nats"));
    command.args(["--server", &server.url()]).args(args);
    command.env("HOME", home).env("XDG_CONFIG_HOME", home).env_remove("NATS_URL").env_remove("NATS_CONTEXT");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_command_works_as_a_person_expects() {
    let server = NatsServer::start().await;
    let home = server.store().display().to_string();
    let shutdown = Shutdown::new();
    let own = Bus::connect(&Config::new(server.url(), "users")).await.unwrap();
    tokio::spawn(users::serve(own, shutdown.clone()));
    let bus = Bus::connect(&Config::new(server.url(), "test")).await.unwrap();
    eventually("users answers", SOON, async || bus.call(List::default()).await).await;
    let run = |args: &[&str]| {
        let started = Instant::now();
        let output = nats(&server, &home, args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "nats {args:?}: {}", said(&output));
        (said(&output), started.elapsed())
    };

    let listening = Process::spawn("nats sub", &nats(&server, &home, &["sub", "vpn.>"]));
    eventually("nats sub listens", SOON, async || listening.log().contains("Subscribing on vpn.>")).await;
    let (reply, _) = run(&["request", "--raw", "vpn.users.create", "{\"name\":\"alice\"}"]);
    let alice: User = serde_json::from_str(&reply).unwrap();
    assert_eq!(alice.name.as_str(), "alice");
    eventually("nats sub shows the request", SOON, async || listening.log().contains("{\"name\":\"alice\"}"))
        .await;

    let (again, took) = run(&["request", "vpn.users.create", "{\"name\":\"alice\"}"]);
    for word in ["Nats-Service-Error-Code: 409", "users.name_taken", "\"hint\"", "\"docs\""] {
        assert!(again.contains(word), "{word} is not in {again}");
    }
    assert!(took < Duration::from_secs(2), "{took:?}");
    let (nonsense, _) = run(&["request", "vpn.users.create", "nonsense"]);
    assert!(nonsense.contains("request.not_json"), "{nonsense}");
    let (list, _) = run(&["request", "--raw", "vpn.users.list", ""]);
    assert!(list.contains("\"total\":1"), "an empty body stands for {{}}: {list}");

    let (value, _) = run(&["kv", "get", "vpn_users", "alice", "--raw"]);
    assert_eq!(serde_json::from_str::<User>(&value).unwrap(), alice);
    run(&["request", "vpn.users.suspend", "{\"name\":\"alice\",\"reason\":\"unpaid\"}"]);
    let (history, _) = run(&["kv", "history", "vpn_users", "alice"]);
    assert!(history.matches("PUT").count() == 2, "{history}");
    run(&["request", "vpn.users.delete", "{\"name\":\"alice\"}"]);
    let gone = nats(&server, &home, &["kv", "get", "vpn_users", "alice", "--raw"]).output().unwrap();
    assert!(!gone.status.success() && said(&gone).contains("not found"), "{}", said(&gone));
    let (buckets, _) = run(&["kv", "ls"]);
    assert!(buckets.contains("vpn_users"), "{buckets}");

    let (services, _) = run(&["micro", "ls"]);
    assert!(services.contains("users"), "{services}");
    let (info, _) = run(&["micro", "info", "users"]);
    for subject in ["create", "create_many", "get", "list", "update", "suspend", "resume", "delete"] {
        assert!(info.contains(&format!("vpn.users.{subject}")), "{subject} is not in {info}");
    }
    let (stats, _) = run(&["micro", "stats", "users"]);
    let create = stats.lines().find(|line| line.contains("create") && !line.contains("create_many"));
    assert!(create.expect("a line for create").contains('3'), "three requests to create: {stats}");
    assert!(shutdown.finish(SOON).await);
}
