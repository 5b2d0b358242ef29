//! What happens to containers is told once, also what nobody saw.

use std::process::Command;

use contract::{Protocol, fleet::DeleteServer, runtime::InstanceState};
use flows::{house::Plan, programs::said};
use serde_json::Value;
use testkit::wait::eventually;

use crate::world::{SOON, World};

/// What `vpn events` says of a server: what, and whether it was found out afterwards.
fn told(world: &World, server: &str) -> Result<Vec<(String, bool)>, String> {
    let text = said(&mut world.house.vpn(["events", "--server", server, "--tail", "100", "-o", "json"]))?;
    let events: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let line = |event: &Value| Some((event["what"].as_str()?.to_owned(), event["inferred"].as_bool()?));
    Ok(events.as_array().unwrap().iter().filter_map(line).collect())
}

async fn has_told(world: &World, expected: &[(&str, bool)], what: &str) {
    let expected: Vec<_> = expected.iter().map(|(what, inferred)| ((*what).to_owned(), *inferred)).collect();
    eventually(what, SOON, async || {
        let told = told(world, "ss")?;
        if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

/// The first process of the only instance.
fn pid(world: &World, backend: &str) -> String {
    if backend == "process" {
        let children = world.house.children();
        return children.keys().next().unwrap().to_string();
    }
    let (id, _) = world.house.containers().remove(0);
    said(&mut world.house.docker(["inspect", "--format", "{{.State.Pid}}", &id])).unwrap().trim().to_owned()
}

fn kill(pid: &str) {
    said(Command::new("kill").args(["-9", pid])).unwrap();
}

async fn each_event_is_told_once(backend: &str) {
    let mut world = World::with(Plan { apart: true, ..Plan::on(backend) }).await;
    world.serve("ss", Protocol::Shadowsocks2022).await;
    let mut expected = vec![("created", false), ("started", false)];
    has_told(&world, &expected, "a server that begins").await;

    // While the bus is away.
    world.house.nats_server().kill();
    kill(&pid(&world, backend));
    world.house.nats_server().restart().await;
    world.house.ready().await;
    expected.extend([("exited", false), ("started", false)]);
    has_told(&world, &expected, "an engine that died, although the bus was away").await;

    // While the agent is away.
    let engine = pid(&world, backend);
    world.house.kill("runtime");
    kill(&engine);
    eventually("the engine is gone", SOON, async || {
        !std::path::Path::new(&format!("/proc/{engine}")).exists()
    })
    .await;
    world.house.begin("runtime");
    world.house.ready().await;
    eventually("it runs again", SOON, async || {
        let told = told(&world, "ss")?;
        if told.len() == expected.len() + 2 { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    let told = told(&world, "ss").unwrap();
    assert_eq!((told[4].0.as_str(), told[5].0.as_str()), ("exited", "started"));
    // Docker remembers what it did in the last seconds, and says it to who comes.
    assert!(told[4].1 || backend == "docker", "nobody was there to see it");

    let instance = world.house.runs(&world.bus, "ss").await;
    assert_eq!(instance.state, InstanceState::Running);
    world.ask(DeleteServer { name: "ss".parse().unwrap() }).await;
    eventually("a server that ends", SOON, async || {
        let told = self::told(&world, "ss")?;
        let whats: Vec<_> = told.iter().skip(6).map(|(what, _)| what.as_str()).collect();
        if whats == ["exited", "removed"] { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;

    // Another agent has nothing to add.
    world.house.kill("runtime");
    world.house.begin("runtime");
    world.house.ready().await;
    world.serve("other", Protocol::Shadowsocks2022).await;
    eventually("the other one is told", SOON, async || {
        let told = self::told(&world, "other")?;
        if told.len() == 2 { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    assert_eq!(self::told(&world, "ss").unwrap().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_child_processes() {
    each_event_is_told_once("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_containers() {
    each_event_is_told_once("docker").await;
}
