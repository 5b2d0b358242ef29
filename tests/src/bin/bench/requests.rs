//! One request: creating and reading a user.
//!
//! The floor of creating is a raw request that is answered at once, and then a raw publish that JetStream
//! acknowledges, on the same server with the same `sync_interval`; that of reading is the raw request.

use std::time::Instant;

use bytes::Bytes;
use contract::{
    keys::Credentials,
    users::{Create, Get, List, User},
};
use flows::{House, house::Plan};
use testkit::{nats::NatsServer, wait::eventually};

use crate::{
    measure::{Pair, turn},
    raw::Raw,
    services::{READY_WITHIN, Service, connect},
    table::{Goal, Table},
};

const ROUNDS: usize = 500;

pub(crate) async fn measure(table: &mut Table) {
    let nats = NatsServer::start().await;
    let service = Service::Users.start(&nats.url());
    let bus = connect(&nats.url()).await;
    eventually("users answers", READY_WITHIN, async || bus.call(List::default()).await).await;
    let raw = Raw::open(&nats.url()).await;
    let alone = create(&bus, &raw, async |_| {}).await;
    let (ours, floor) = alone.ms(50);
    table.add(
        "users.create p50 (floor: request + acknowledged publish)",
        ours,
        floor,
        "ms",
        Goal::Ratio(1.5),
    );
    let (ours, floor) = alone.ms(99);
    table.add("users.create p99", ours, floor, "ms", Goal::None);

    let mut reads = Pair::default();
    for round in 0..ROUNDS {
        let name = format!("user-{round}");
        for is_ours in turn(round) {
            let started = Instant::now();
            if is_ours {
                bus.call(Get { name: name.parse().unwrap() }).await.unwrap();
                reads.ours.push(started.elapsed());
            } else {
                raw.request(Bytes::from(format!("{{\"name\":\"{name}\"}}"))).await;
                reads.floor.push(started.elapsed());
            }
        }
    }
    for percent in [50, 99] {
        let (ours, floor) = reads.ms(percent);
        let name = format!("users.get p{percent} (floor: raw request)");
        table.add(name, ours, floor, "ms", Goal::AtMost(10.0));
    }
    drop((service, raw, nats));

    let house = House::start(Plan::on("process")).await;
    let bus = house.bus().await;
    let raw = Raw::open(&house.url()).await;
    let credentials = bus.own::<Credentials>().await.unwrap();
    // What follows a creation is done before the next is timed.
    let settled = async |user: &User| {
        eventually("the credentials are there", READY_WITHIN, async || {
            credentials.get(user.name.as_str()).await.unwrap()
        })
        .await;
    };
    let whole = create(&bus, &raw, settled).await;
    let (ours, floor) = whole.ms(50);
    table.add("users.create p50, vpnd all at work", ours, floor, "ms", Goal::Ratio(1.5));
}

async fn create(bus: &bus::Bus, raw: &Raw, settled: impl AsyncFn(&User)) -> Pair {
    let mut pair = Pair::default();
    let mut body = Bytes::from(vec![b'.'; 200]);
    for round in 0..ROUNDS {
        for is_ours in turn(round) {
            let started = Instant::now();
            if is_ours {
                let name = format!("user-{round}").parse().unwrap();
                let user = bus.call(Create::named(name)).await.unwrap();
                pair.ours.push(started.elapsed());
                body = serde_json::to_vec(&user).unwrap().into();
                settled(&user).await;
            } else {
                raw.request(body.clone()).await;
                raw.publish(&round.to_string(), body.clone()).await;
                pair.floor.push(started.elapsed());
            }
        }
    }
    pair
}
