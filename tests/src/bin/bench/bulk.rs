//! 10,000 users at once, with their credentials, and the list of them.
//!
//! The floor of the first is as many raw messages of the same lengths in raw atomic batches; of the second, reading
//! the bucket by a connection of its own.

use std::time::Instant;

use bus::Bus;
use bytes::Bytes;
use contract::{
    keys::Credentials,
    users::{Create, CreateMany},
};
use flows::{House, house::Plan, programs::said};
use testkit::wait::eventually;

use crate::{
    measure::{Pair, turn},
    raw::{self, Raw},
    services::READY_WITHIN,
    table::{Goal, Table},
};

/// As many as are promised.
pub(crate) const MANY: usize = 10_000;
const ROUNDS: usize = 5;
const LISTS: usize = 11;

pub(crate) async fn measure(table: &mut Table) {
    let (mut replies, mut all, mut lists) = (Pair::default(), Pair::default(), Pair::default());
    for round in 0..ROUNDS {
        // Each round has a house that is as empty as the one before.
        let house = House::start(Plan::on("process")).await;
        let bus = house.bus().await;
        let raw = Raw::open(&house.url()).await;
        // Of what length: known before the first.
        create(&bus, "first", 1).await;
        let credentials = bus.own::<Credentials>().await.unwrap();
        let first = "first-00000";
        eventually("the first has credentials", READY_WITHIN, async || credentials.get(first).await.unwrap())
            .await;
        let user = Bytes::from(vec![b'.'; raw::length(&raw.client, "vpn_users", first).await]);
        let keys = Bytes::from(vec![b'.'; raw::length(&raw.client, "vpn_credentials", first).await]);
        let before = credentials.revision().await.unwrap();
        for is_ours in turn(round) {
            let started = Instant::now();
            if is_ours {
                create(&bus, "user", MANY).await;
                replies.ours.push(started.elapsed());
                while credentials.revision().await.unwrap() < before + MANY as u64 {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                all.ours.push(started.elapsed());
            } else {
                raw.batches(MANY, &user).await;
                replies.floor.push(started.elapsed());
                raw.batches(MANY, &keys).await;
                all.floor.push(started.elapsed());
            }
        }
        if round == 0 {
            lists = list(&house).await;
        }
    }
    let (ours, floor) = replies.ms(50);
    table.add("users.create_many of 10,000: reply (floor: raw batches)", ours, floor, "ms", Goal::None);
    let (ours, floor) = all.ms(50);
    table.add("10,000 users and their credentials", ours, floor, "ms", Goal::AtMost(1_000.0));
    let (ours, floor) = lists.ms(50);
    table.add("vpn users list of 10,000 (floor: raw read)", ours, floor, "ms", Goal::None);
}

/// Creates so many users by one request: `PREFIX-00000` and so on.
pub(crate) async fn create(bus: &Bus, prefix: &str, count: usize) {
    let user = |n| Create::named(format!("{prefix}-{n:05}").parse().unwrap());
    bus.call(CreateMany { users: (0..count).map(user).collect(), batch: None }).await.unwrap();
}

async fn list(house: &House) -> Pair {
    let mut pair = Pair::default();
    for round in 0..LISTS {
        for is_ours in turn(round) {
            let started = Instant::now();
            if is_ours {
                let table = said(&mut house.vpn(["users", "list"])).unwrap();
                pair.ours.push(started.elapsed());
                assert!(table.lines().count() > MANY, "{table}");
            } else {
                let count = raw::read_all(&house.url(), "KV_vpn_users").await;
                pair.floor.push(started.elapsed());
                assert!(count > MANY, "{count}");
            }
        }
    }
    pair
}
