//! What users send and receive is counted exactly once, whatever is killed meanwhile.

use std::{collections::BTreeMap, process::Command};

use contract::{
    Protocol,
    stats::{GetUsage, Kind, Top},
    usage::Traffic,
    users::CreateMany,
};
use flows::{house::Plan, programs::said};
use futures::future::join_all;
use serde_json::Value;
use testkit::{
    programs::program, wait::eventually, wireguard_client::WireguardClient, xray_client::XrayClient,
};

use crate::{
    chaos::kill,
    world::{Dice, SOON, World, named},
};

/// Users of Xray's servers.
const USERS: usize = 40;
/// Each time something is killed.
const ROUNDS: usize = 12;
/// What can be killed without a byte being lost.
const KILLED: [&str; 3] = ["runtime", "stats", "nats"];

/// What Xray's own command line says that was sent and received through a server.
async fn counted_by_engine(world: &World, server: &str) -> Traffic {
    let socket = world
        .house
        .run_dir()
        .join(world.house.runs(&world.bus, server).await.server_id.0.simple().to_string());
    let address = format!("--server=unix://{}", socket.join("api.sock").display());
    let mut command = Command::new(program("xray"));
    let stats = said(command.args(["api", "statsquery", &address, "--pattern", "user>>>"])).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let mut found = Traffic::NONE;
    for stat in stats["stat"].as_array().unwrap() {
        let (name, value) = (stat["name"].as_str().unwrap(), stat["value"].as_u64().unwrap_or_default());
        match name.rsplit(">>>").next() {
            Some("uplink") => found.up += value,
            Some("downlink") => found.down += value,
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_byte_is_counted_once_whatever_is_killed() {
    let dice = Dice::new();
    let mut world = World::with(Plan { apart: true, ..Plan::on("process") }).await;
    for protocol in Protocol::ALL {
        world.serve(protocol.as_str(), protocol).await;
    }
    let names: Vec<String> = (0..USERS).map(|number| format!("user{number}")).collect();
    world.ask(CreateMany { users: names.iter().map(|user| named(user)).collect(), batch: None }).await;
    world.create("peer").await;
    let mut links = Vec::new();
    for (nth, user) in names.iter().enumerate() {
        let server = [Protocol::VlessReality, Protocol::Shadowsocks2022][nth % 2];
        links.push(world.link(user, server.as_str()).await);
    }
    let client = XrayClient::many(&links).await.unwrap();
    let peer = WireguardClient::connect(&world.link("peer", Protocol::Wireguard.as_str()).await).await;
    for tunnel in client.tunnels() {
        tunnel.accepted(&world.page(), SOON).await.unwrap();
    }

    let mut sent: BTreeMap<&str, u64> = names.iter().map(|user| (user.as_str(), 1_000)).collect();
    let mut to_peer = 0;
    for _ in 0..ROUNDS {
        let internet = &world.internet;
        let sizes: Vec<u64> = names.iter().map(|_| 1_000 + dice.throw(200_000) as u64).collect();
        let tunnels = client.tunnels();
        let fetches = tunnels.iter().zip(&sizes).map(async |(tunnel, size)| {
            let url = internet.target.bytes_url(*size);
            tunnel.fetch(&url, SOON).await.unwrap();
        });
        let (part, pause) = (KILLED[dice.throw(KILLED.len())], dice.millis(0..300));
        println!("{part} is killed after {pause:?}");
        let fetching = async {
            join_all(fetches).await;
            let page = internet.target.bytes_url(sizes[0]);
            eventually("the peer's page comes", SOON, async || peer.fetch(&page, SOON).await).await;
        };
        let house = &mut world.house;
        tokio::join!(fetching, async {
            tokio::time::sleep(pause).await;
            kill(house, part).await;
        });
        for (user, size) in names.iter().zip(&sizes) {
            *sent.get_mut(user.as_str()).unwrap() += size;
        }
        to_peer += sizes[0];
    }

    let bus = world.house.bus().await;
    for server in [Protocol::VlessReality, Protocol::Shadowsocks2022] {
        let of = GetUsage::Server(server.as_str().parse().unwrap());
        let total = eventually("what the engine counted is counted", SOON, async || {
            let total = bus.call(of.clone()).await.map_err(|error| error.to_string())?.traffic;
            let engine = counted_by_engine(&world, server.as_str()).await;
            if total == engine { Ok(total) } else { Err(format!("{total:?}, and the engine {engine:?}")) }
        })
        .await;
        println!("{server}: {total:?}");
    }
    let ranking = bus.call(Top { of: Kind::Users, limit: Some(100), ..Top::default() }).await.unwrap();
    let totals: BTreeMap<_, _> = ranking.rows.into_iter().map(|row| (row.name, row.total.traffic)).collect();
    for (user, bytes) in sent {
        let down = totals[user].down;
        // Headers, and what the way itself takes.
        assert!((bytes..bytes + bytes / 10 + 20_000).contains(&down), "{user} got {bytes}, counted {down}");
    }
    let down = totals["peer"].down;
    assert!(
        (to_peer..to_peer + to_peer / 5 + 50_000).contains(&down),
        "the peer got {to_peer}, counted {down}"
    );
}
