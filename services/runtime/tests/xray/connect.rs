//! Users come and go while others are connected.

use std::time::Duration;

use contract::Protocol;
use runtime::engine::{Converged, Engine as _};
use testkit::{
    sites::Target,
    wait::eventually,
    xray_client::{Held, XrayClient},
};

use super::server::{PROTOCOLS, SOON, Server, user};

/// A user who is refused hears nothing over Shadowsocks; who is not has a page in some milliseconds.
const REFUSED: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_fetched_and_nobody_else_notices_who_comes_and_goes() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
        let server = Server::start(protocol, std::slice::from_ref(&alice)).await;
        let client = XrayClient::many([server.link(&alice), server.link(&bob)]).await.unwrap();
        let [first, second] = &client.tunnels()[..] else { panic!("two tunnels") };
        let url = target.bytes_url(1_000_000);

        let fetched = first.fetch(&url, SOON).await.unwrap();
        assert_eq!(fetched.bytes, 1_000_000, "{protocol}");
        assert!(
            second.fetch(&url, REFUSED).await.is_err(),
            "{protocol}: bob got through before he was added"
        );

        let held = first.hold(&target.slow_url(), SOON).await.unwrap();
        let used = server.bytes_to(&alice);
        assert!((1_000_000..1_100_000).contains(&used), "{protocol}: {used} bytes for a page of a million");
        for round in 0..10 {
            server.add(std::slice::from_ref(&bob)).await;
            second
                .fetch(&url, SOON)
                .await
                .unwrap_or_else(|error| panic!("{protocol}, round {round}: {error}"));
            server.remove(&[&bob]).await;
            let refused = second.fetch(&url, REFUSED).await;
            assert!(refused.is_err(), "{protocol}, round {round}: bob gets through after he was removed");
        }
        // Adding somebody who is there, and removing somebody who is not, is done already.
        server.add(std::slice::from_ref(&alice)).await;
        server.remove(&[&bob]).await;
        still_reads(&held).await;
        first.fetch(&url, SOON).await.unwrap();
    }
}

/// Somebody removed under whose name a key was never known would be an accident of their order.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_survives_users_who_connect_while_others_are_removed() {
    let target = Target::start().await;
    let protocol = Protocol::Shadowsocks2022;
    // The last user is the one whom Xray moves, and with many users it takes it long to notice.
    let mut users = super::server::users(protocol, 5_000);
    let last = user(protocol, "last");
    users.push(last.clone());
    let mut server = Server::start(protocol, &users).await;
    let client = XrayClient::start(&server.link(&last)).await.unwrap();
    let tunnel = &client.tunnels()[0];

    let url = target.bytes_url(10);
    let connecting = async {
        loop {
            tunnel.fetch(&url, SOON).await.unwrap();
        }
    };
    let removing = async {
        for gone in &users[..40] {
            server.remove(&[gone]).await;
        }
        // Where others wait behind the last user, they are moved.
        let coming: Vec<_> = (0..40).map(|_| user(protocol, "next").secret).collect();
        server.engine.expect(&coming, server.pid()).await.unwrap();
        while server.engine.learn().await.unwrap() {}
        for gone in &users[40..80] {
            server.remove(&[gone]).await;
        }
    };
    tokio::select! {
        () = connecting => unreachable!(),
        () = removing => {}
    }
    server.process.must_run();
    tunnel.fetch(&url, SOON).await.unwrap();
}

/// Each one who leaves leaves something behind, which must not pile up.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_come_and_go_one_by_one_leave_nothing() {
    let target = Target::start().await;
    let protocol = Protocol::Shadowsocks2022;
    let alice = user(protocol, "alice");
    let mut server = Server::start(protocol, std::slice::from_ref(&alice)).await;
    let client = XrayClient::start(&server.link(&alice)).await.unwrap();
    let held = client.hold(&target.slow_url(), SOON).await.unwrap();
    for round in 0..1_500 {
        if round == 700 {
            server.restart_agent();
            server.engine.converge(std::slice::from_ref(&alice), server.pid()).await.unwrap();
        }
        let guest = user(protocol, &format!("guest-{round}"));
        server.add(std::slice::from_ref(&guest)).await;
        server.remove(&[&guest]).await;
    }
    let users = server.users_in_engine();
    assert!(users < 1_002, "{users} users in an engine that should have one");
    still_reads(&held).await;
    client.fetch(&target.bytes_url(10), SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_differs_is_brought_to_what_is_desired() {
    let target = Target::start().await;
    let url = target.bytes_url(100);
    for protocol in PROTOCOLS {
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| user(protocol, name));
        let new_bob = user(protocol, "bob");
        let mut server = Server::start(protocol, &[alice.clone(), bob.clone()]).await;
        let links = [&alice, &bob, &carol, &new_bob].map(|user| server.link(user));
        let client = XrayClient::many(links).await.unwrap();
        let [alice_t, bob_t, carol_t, new_bob_t] = &client.tunnels()[..] else { panic!("four tunnels") };
        let old = bob_t.hold(&target.slow_url(), SOON).await.unwrap();

        let desired = [new_bob.clone(), carol.clone()];
        let converged = server.engine.converge(&desired, server.pid()).await.unwrap();
        assert_eq!(converged, Converged { added: 2, removed: 1 }, "{protocol}");
        let converged = server.engine.converge(&desired, server.pid()).await.unwrap();
        assert_eq!(converged, Converged::default(), "{protocol}: a second look finds a difference");
        server.has_connections(0).await;
        drop(old);
        for tunnel in [carol_t, new_bob_t] {
            tunnel.fetch(&url, SOON).await.unwrap();
        }
        for tunnel in [alice_t, bob_t] {
            assert!(tunnel.fetch(&url, REFUSED).await.is_err(), "{protocol}");
        }

        // The file still has the users of the start, as if the agent had died before it was saved.
        server.restart_engine().await;
        let converged = server.engine.converge(&desired, server.pid()).await.unwrap();
        assert_eq!(converged, Converged { added: 2, removed: 1 }, "{protocol}: a stale file heals");
        server.engine.save(&server.desired, &desired).await.unwrap();
        server.restart_engine().await;
        let converged = server.engine.converge(&desired, server.pid()).await.unwrap();
        assert_eq!(converged, Converged::default(), "{protocol}: a saved file is what was desired");
        carol_t.fetch(&url, SOON).await.unwrap();
    }
}

pub(crate) async fn still_reads(held: &Held) {
    assert!(held.is_open(), "a connection of somebody else ended");
    let before = held.bytes();
    eventually("the other connection goes on", SOON, async || held.bytes() > before).await;
}
