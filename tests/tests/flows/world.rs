//! A house with servers, users, and sites for them.

use std::{sync::Mutex, time::Duration};

use bus::Bus;
use contract::{
    Protocol, Request, UserName,
    keys::Link,
    users::{Create, User},
};
use flows::{
    House,
    house::Plan,
    internet::{Internet, SITE_NAME},
    programs::said,
};
use testkit::{ports, wait::eventually};

/// Long enough for two cores that also compile.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct World {
    // In the order in which they end.
    pub(crate) house: House,
    pub(crate) bus: Bus,
    pub(crate) internet: Internet,
}

impl World {
    pub(crate) async fn on(backend: &str) -> Self {
        Self::with(Plan::on(backend)).await
    }

    pub(crate) async fn with(plan: Plan) -> Self {
        let internet = Internet::open().await;
        let house = House::start(plan).await;
        let bus = house.bus().await;
        Self { house, bus, internet }
    }

    /// A server whose users reach the sites; returns when it runs.
    pub(crate) async fn serve(&self, name: &str, protocol: Protocol) {
        self.serve_allowing(name, protocol, &[&format!("{}/32", self.internet.address())]).await;
    }

    /// The same with other private ranges.
    pub(crate) async fn serve_allowing(&self, name: &str, protocol: Protocol, ranges: &[&str]) {
        let (port, site) = (ports::free().to_string(), self.internet.site.address().to_string());
        let mut args = vec!["servers", "create", name, "--protocol", protocol.as_str(), "--port", &port];
        for range in ranges {
            args.extend(["--allow-private", range]);
        }
        if protocol == Protocol::VlessReality {
            args.extend(["--dest", &site, "--server-name", SITE_NAME]);
        }
        said(&mut self.house.vpn(args)).unwrap();
        self.house.runs(&self.bus, name).await;
    }

    pub(crate) async fn ask<R: Request>(&self, request: R) -> R::Reply {
        self.bus.call(request).await.unwrap()
    }

    pub(crate) async fn create(&self, name: &str) -> User {
        self.ask(named(name)).await
    }

    /// A user's link for a server, once it is there.
    pub(crate) async fn link(&self, user: &str, server: &str) -> String {
        link(&self.bus, user, server).await
    }

    /// The page that never ends.
    pub(crate) fn slow(&self) -> String {
        self.internet.target.slow_url()
    }

    pub(crate) fn page(&self) -> String {
        self.internet.target.bytes_url(1000)
    }
}

pub(crate) async fn link(bus: &Bus, user: &str, server: &str) -> String {
    let request = Link { user: name(user), server: Some(server.parse().unwrap()) };
    let ask = async || bus.call(request.clone()).await.map(|mut links| links.links.remove(0).link);
    eventually(&format!("{user} has a link for {server}"), SOON, ask).await
}

pub(crate) fn name(name: &str) -> UserName {
    name.parse().unwrap()
}

pub(crate) fn named(user: &str) -> Create {
    Create::named(name(user))
}

/// Chance that is told: the seed is in the test's output.
pub(crate) struct Dice(Mutex<u64>);

impl Dice {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = now.subsec_nanos() as u64 | 1;
        println!("seed {seed}");
        Self(Mutex::new(seed))
    }

    /// One of `0..sides`.
    pub(crate) fn throw(&self, sides: usize) -> usize {
        let mut state = self.0.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state % sides as u64).unwrap()
    }

    pub(crate) fn millis(&self, range: std::ops::Range<usize>) -> Duration {
        Duration::from_millis((range.start + self.throw(range.len())) as u64)
    }
}
