//! 10,000 users.

use std::time::{Duration, Instant};

use contract::UserName;
use runtime::engine::{Converged, Engine as _, EngineUser};
use testkit::{sites::Target, xray_client::XrayClient};

use super::{
    connect::still_reads,
    server::{PROTOCOLS, SOON, Server, user, users},
};

const MANY: usize = 10_000;
/// What is promised for 10,000 users that come at once.
const PROMISED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_users_come_and_go_at_once_and_nobody_notices() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let alice = user(protocol, "alice");
        let server = Server::start(protocol, std::slice::from_ref(&alice)).await;
        let many = users(protocol, MANY);
        let everybody: Vec<EngineUser> = many.iter().chain([&alice]).cloned().collect();
        let links = [&alice, &many[0], &many[MANY - 1]].map(|user| server.link(user));
        let client = XrayClient::many(links).await.unwrap();
        let [hers, first, last] = &client.tunnels()[..] else { panic!("three tunnels") };
        let held = hers.hold(&target.slow_url(), SOON).await.unwrap();
        let url = target.bytes_url(100);

        let took = timed(&format!("{protocol}: add {MANY}"), server.add(&many)).await;
        assert!(took < PROMISED, "{protocol}: {took:?}");
        for tunnel in [first, last] {
            tunnel.fetch(&url, SOON).await.unwrap();
        }
        timed(&format!("{protocol}: add 1 to {MANY}"), server.add(&[user(protocol, "late")])).await;
        timed(&format!("{protocol}: remove 1 of {MANY}"), server.remove(&[&user(protocol, "late")])).await;

        let converge = server.engine.converge(&everybody, server.pid());
        let converged = timed_to(&format!("{protocol}: compare {MANY}"), converge).await.unwrap();
        assert_eq!(converged, Converged::default(), "{protocol}");
        let save = server.engine.save(&server.desired, &everybody);
        timed_to(&format!("{protocol}: save {MANY}"), save).await.unwrap();

        let names: Vec<UserName> = many.iter().map(|user| user.name.clone()).collect();
        let held_first = first.hold(&target.slow_url(), SOON).await.unwrap();
        let remove = server.engine.remove(&names, server.pid());
        timed_to(&format!("{protocol}: remove {MANY}"), remove).await.unwrap();
        server.has_connections(1).await;
        drop(held_first);
        assert!(last.fetch(&url, Duration::from_millis(500)).await.is_err(), "{protocol}");
        hers.fetch(&url, SOON).await.unwrap();
        still_reads(&held).await;
    }
}

async fn timed(what: &str, work: impl Future<Output = ()>) -> Duration {
    let started = Instant::now();
    work.await;
    println!("{what}: {:?}", started.elapsed());
    started.elapsed()
}

async fn timed_to<T>(what: &str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    println!("{what}: {:?}", started.elapsed());
    done
}
