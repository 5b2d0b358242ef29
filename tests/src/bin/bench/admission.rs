//! From the reply that a user is created to a real handshake of that user, with 10,000 users on the server; and from
//! the reply that one is suspended to the first that fails.
//!
//! Timed is all of the former: the credentials that follow, asking for the link, giving it to a client, and tries of that
//! client until one gets through. The floor is the same for a user who has been there all along: link, client,
//! handshake.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bus::Bus;
use bytes::Bytes;
use contract::{
    Protocol, ServerName, UserName,
    keys::Link,
    users::{Create, Suspend},
};
use flows::{
    House,
    house::Plan,
    internet::{Internet, SITE_NAME},
    programs::said,
};
use futures::StreamExt as _;
use testkit::ports;
use tokio::time::sleep;

use crate::{
    bulk::{self, MANY},
    clients::{Clients, WITHIN},
    measure::{Pair, turn},
    raw::{self, Raw},
    table::{Goal, Table},
};

const SERVER: &str = "bench";
/// Each in a house of its own, for there is no bulk deletion.
const BULKS: usize = 3;
const ROUNDS: usize = 200;
/// Users who are refused; being sure that one is takes a third of a second.
const OUTS: usize = 60;
/// An engine takes up to 30 ms to forget the key of one who is refused already, and others wait for that.
const APART: Duration = Duration::from_millis(100);
/// So many who did not get through say enough.
const LOST_MAX: usize = 2;

pub(crate) async fn measure(table: &mut Table, only: Option<Protocol>) {
    let internet = Internet::open().await;
    for protocol in Protocol::ALL.into_iter().filter(|protocol| only.is_none_or(|only| only == *protocol)) {
        let (mut bulk, mut single, mut refused) = (Pair::default(), Pair::default(), Pair::default());
        for round in 0..BULKS {
            let place = Place::open(protocol, &internet).await;
            place.bulk(round, &mut bulk).await;
            if round + 1 == BULKS {
                single = place.one_by_one().await;
                refused = place.out_one_by_one().await;
            }
        }
        let (ours, floor) = bulk.ms(50);
        let name = format!("{protocol}: 10,000 users created, the last gets through");
        table.add(name, ours, floor, "ms", Goal::AtMost(5_000.0));
        for (percent, goal) in [(50, Goal::None), (95, Goal::AtMost(10.0))] {
            let (ours, floor) = single.ms(percent);
            let name = format!("{protocol}: created to through, 10,000 users, p{percent}");
            table.add(name, ours, floor, "ms", goal);
        }
        for (percent, goal) in [(50, Goal::None), (95, Goal::AtMost(10.0))] {
            let (ours, floor) = refused.ms(percent);
            let name = format!("{protocol}: suspended to refused, 10,000 users, p{percent}");
            table.add(name, ours, floor, "ms", goal);
        }
    }
}

/// A house with one server.
struct Place {
    _house: House,
    bus: Bus,
    raw: Raw,
    clients: Clients,
    lost: AtomicUsize,
}

impl Place {
    async fn open(protocol: Protocol, internet: &Internet) -> Self {
        let house = House::start(Plan::on("process")).await;
        let bus = house.bus().await;
        let (port, site) = (ports::free().to_string(), internet.site.address().to_string());
        let reachable = format!("{}/32", internet.address());
        let mut args = vec!["servers", "create", SERVER, "--protocol", protocol.as_str(), "--port", &port];
        args.extend(["--allow-private", &reachable]);
        if protocol == Protocol::VlessReality {
            args.extend(["--dest", &site, "--server-name", SITE_NAME]);
        }
        said(&mut house.vpn(args)).unwrap();
        house.runs(&bus, SERVER).await;
        let raw = Raw::open(&house.url()).await;
        let clients = Clients::of(protocol, internet.target.bytes_url(100)).await;
        let place = Self { _house: house, bus, raw, clients, lost: AtomicUsize::new(0) };
        // The engine and the client have met before anything is timed.
        bulk::create(&place.bus, "first", 1).await;
        place.through("first-00000").await;
        place
    }

    /// 10,000 at once, until the last of them gets through. The floor is their messages in raw batches, and a
    /// handshake.
    async fn bulk(&self, round: usize, pair: &mut Pair) {
        let raw = &self.raw;
        let user = Bytes::from(vec![b'.'; raw::length(&raw.client, "vpn_users", "first-00000").await]);
        let keys = Bytes::from(vec![b'.'; raw::length(&raw.client, "vpn_credentials", "first-00000").await]);
        for is_ours in turn(round) {
            let started = Instant::now();
            if is_ours {
                bulk::create(&self.bus, "user", MANY).await;
                self.through(&format!("user-{:05}", MANY - 1)).await;
                pair.ours.push(started.elapsed());
            } else {
                raw.batches(MANY, &user).await;
                raw.batches(MANY, &keys).await;
                self.through("first-00000").await;
                pair.floor.push(started.elapsed());
            }
        }
    }

    /// One user more, and another who is there.
    async fn one_by_one(&self) -> Pair {
        let mut pair = Pair::default();
        for round in 0..ROUNDS {
            if self.lost.load(Ordering::Relaxed) > LOST_MAX {
                break;
            }
            for is_ours in turn(round) {
                if !is_ours {
                    let started = Instant::now();
                    pair.floor.push(self.through(&format!("user-{round:05}")).await - started);
                    continue;
                }
                let name = format!("late-{round:05}");
                // The message of the credentials wakes us, so that asking for them is no load.
                let mut issued =
                    self.raw.client.subscribe(format!("$KV.vpn_credentials.{name}")).await.unwrap();
                self.raw.client.flush().await.unwrap();
                self.bus.call(Create::named(name.parse().unwrap())).await.unwrap();
                let started = Instant::now();
                issued.next().await.unwrap();
                pair.ours.push(self.through(&name).await - started);
            }
        }
        pair
    }

    /// One user less: from the reply until the beginning of the first try that does not get through. The floor is a
    /// try that does, as the tries of one user follow each other.
    async fn out_one_by_one(&self) -> Pair {
        let mut pair = Pair::default();
        for round in 0..OUTS {
            sleep(APART).await;
            let user = format!("user-{:05}", MANY / 2 + round);
            let name: UserName = user.parse().unwrap();
            let link = self.link(&user).await;
            let through = self.clients.get_through(&link).await;
            let started = Instant::now();
            assert!(through.again().await, "{user} does not get through");
            pair.floor.push(started.elapsed());
            self.bus.call(Suspend { name, reason: None }).await.unwrap();
            let started = Instant::now();
            let refused_at = loop {
                let at = Instant::now();
                if !through.again().await {
                    break at;
                }
                assert!(started.elapsed() < WITHIN, "{user} goes on getting through");
            };
            pair.ours.push(refused_at - started);
            through.leave().await;
        }
        pair
    }

    async fn link(&self, user: &str) -> String {
        let user: UserName = user.parse().unwrap();
        let server: ServerName = SERVER.parse().unwrap();
        loop {
            match self.bus.call(Link { user: user.clone(), server: Some(server.clone()) }).await {
                Ok(links) if !links.links.is_empty() => return links.links[0].link.clone(),
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Returns when the user has got through, or has not for long enough.
    async fn through(&self, user: &str) -> Instant {
        let link = self.link(user).await;
        let through = self.clients.get_through(&link).await;
        let at = Instant::now();
        if !through.leave().await {
            println!("{user} did not get through in {WITHIN:?}");
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        at
    }
}
