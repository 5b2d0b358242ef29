//! The bus as a person meets it with the `nats` command.

use flows::{House, house::Plan, programs::said};
use serde_json::Value;
use testkit::{process::Process, wait::eventually};

use crate::world::SOON;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_the_nats_command_finds_their_way() {
    let house = House::start(Plan::on("process")).await;
    let nats = |args: &[&str]| said(&mut house.nats(args.iter().copied())).unwrap();
    // What a terminal shows: headers stand in what it writes to stderr.
    let shown = |args: &[&str]| {
        let output = house.nats(args.iter().copied()).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let mut listening = house.nats(["sub", "vpn.>"]);
    listening.env("NO_COLOR", "1");
    let listening = Process::spawn("nats sub", &listening);
    eventually("nats sub listens", SOON, async || listening.log().contains("Subscribing on vpn.>")).await;

    let alice = nats(&["request", "--raw", "vpn.users.create", r#"{"name":"alice","quota":"50GB"}"#]);
    assert_eq!(json(&alice)["name"], "alice");
    assert_eq!(json(&alice)["quota"], 50_000_000_000_u64);
    eventually("nats sub shows the request", SOON, async || {
        let seen = listening.log();
        if seen.contains("vpn.users.create") && seen.contains(r#"{"name":"alice","quota":"50GB"}"#) {
            return Ok(());
        }
        Err(seen)
    })
    .await;
    // What others say is not to be had by listening: replies go to inboxes.
    assert!(!listening.log().contains("created_at"), "{}", listening.log());

    // An error looks like one to a person and to a program.
    let again = shown(&["request", "vpn.users.create", r#"{"name":"alice"}"#]);
    assert!(again.contains("users.name_taken") && again.contains("vpn users update"), "{again}");
    assert!(again.contains("Nats-Service-Error-Code: 409"), "{again}");
    assert!(
        shown(&["request", "vpn.users.get", r#"{"name":"bob"}"#]).contains("Nats-Service-Error-Code: 404")
    );
    // No body at all is an empty request.
    let list = json(&nats(&["request", "--raw", "vpn.users.list", ""]));
    assert_eq!((&list["total"], &list["users"][0]["name"]), (&1.into(), &"alice".into()));

    let services = nats(&["micro", "ls"]);
    for service in ["users", "keys", "fleet", "runtime"] {
        assert!(services.contains(service), "{services}");
    }
    let info = nats(&["micro", "info", "users"]);
    for subject in ["vpn.users.create", "vpn.users.create_many", "vpn.users.list", "vpn.users.suspend"] {
        assert!(info.contains(subject), "{info}");
    }
    let stats = json(&nats(&["micro", "stats", "users", "--json"]));
    let endpoints = stats[0]["endpoints"].as_array().or(stats["endpoints"].as_array()).unwrap();
    let create = endpoints.iter().find(|endpoint| endpoint["subject"] == "vpn.users.create").unwrap();
    // A refusal is the caller's error, not the service's.
    assert_eq!((&create["num_requests"], &create["num_errors"]), (&2.into(), &0.into()), "{create}");
    assert_eq!(create["data"]["refused"], 1, "{create}");

    let kept = json(&nats(&["kv", "get", "vpn_users", "alice", "--raw"]));
    assert_eq!(kept, json(&alice), "the bucket holds what the reply said");
    assert!(nats(&["kv", "get", "vpn_users", "alice"]).contains("vpn_users > alice"));
    assert!(nats(&["kv", "ls", "vpn_users"]).contains("alice"));
    eventually("credentials follow", SOON, async || {
        said(&mut house.nats(["kv", "get", "vpn_credentials", "alice", "--raw"]))
    })
    .await;

    nats(&["request", "vpn.users.suspend", r#"{"name":"alice","reason":"unpaid"}"#]);
    let now = json(&nats(&["kv", "get", "vpn_users", "alice", "--raw"]));
    assert_eq!((&now["state"]["is"], &now["state"]["reason"]), (&"suspended".into(), &"unpaid".into()));
    let history = nats(&["kv", "history", "vpn_users", "alice"]);
    assert_eq!(history.matches("PUT").count(), 2, "{history}");
    nats(&["request", "vpn.users.delete", r#"{"name":"alice"}"#]);
    said(&mut house.nats(["kv", "get", "vpn_users", "alice"])).unwrap_err();
    // The state message is the event: what happened stands in its headers.
    let last = nats(&["stream", "get", "KV_vpn_users", "--last-for", "$KV.vpn_users.alice"]);
    assert!(last.contains("users.deleted"), "{last}");
}
