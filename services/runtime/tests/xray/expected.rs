//! Users who come with keys that the engine knows already.

use std::time::Duration;

use contract::Protocol;
use runtime::engine::{Converged, Engine as _, EngineUser, UserSecret};
use testkit::{
    sites::Target,
    xray_client::{Tunnel, XrayClient},
};

use super::{
    connect::still_reads,
    server::{SOON, Server, user},
};

/// Xray leaves the unknown without an answer.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

fn shadowsocks(name: &str) -> EngineUser {
    user(Protocol::Shadowsocks2022, name)
}

fn secrets(users: &[&EngineUser]) -> Vec<UserSecret> {
    users.iter().map(|user| user.secret.clone()).collect()
}

/// The engine knows what these users will come with, and nothing else that nobody has.
async fn expect(server: &Server, coming: &[UserSecret]) {
    server.engine.expect(coming, server.pid()).await.unwrap();
    while server.engine.learn().await.unwrap() {}
}

async fn is_refused(tunnel: &Tunnel, url: &str) {
    assert!(tunnel.fetch(url, REFUSED_WITHIN).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_expected_is_in_before_it_comes_and_leaves_as_others_do() {
    let target = Target::start().await;
    let url = target.bytes_url(100);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(shadowsocks);
    let server = Server::start(Protocol::Shadowsocks2022, std::slice::from_ref(&alice)).await;
    let client = XrayClient::many([&alice, &bob, &carol].map(|user| server.link(user))).await.unwrap();
    let [hers, his, third] = &client.tunnels()[..] else { panic!("three tunnels") };
    let bystander = hers.hold(&target.slow_url(), SOON).await.unwrap();
    is_refused(his, &url).await;

    expect(&server, &secrets(&[&bob, &carol])).await;
    his.fetch(&url, SOON).await.unwrap();
    let open = his.hold(&target.slow_url(), SOON).await.unwrap();
    server.add(std::slice::from_ref(&bob)).await;
    expect(&server, &secrets(&[&carol])).await;
    still_reads(&open).await;

    server.remove(&[&bob]).await;
    server.has_connections(1).await;
    is_refused(his, &url).await;
    drop(open);

    // Somebody had it, and is gone again.
    third.fetch(&url, SOON).await.unwrap();
    let open = third.hold(&target.slow_url(), SOON).await.unwrap();
    expect(&server, &[]).await;
    server.has_connections(1).await;
    is_refused(third, &url).await;
    drop(open);

    server.add(std::slice::from_ref(&bob)).await;
    his.fetch(&url, SOON).await.unwrap();
    still_reads(&bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_started_anew_knows_who_has_come_and_who_is_expected() {
    let target = Target::start().await;
    let url = target.bytes_url(100);
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(shadowsocks);
    let mut server = Server::start(Protocol::Shadowsocks2022, std::slice::from_ref(&alice)).await;
    let links = [&alice, &bob, &carol, &dave].map(|user| server.link(user));
    let client = XrayClient::many(links).await.unwrap();
    let [hers, his, third, fourth] = &client.tunnels()[..] else { panic!("four tunnels") };
    expect(&server, &secrets(&[&bob, &carol, &dave])).await;
    server.add(&[bob.clone(), carol.clone()]).await;
    let open = his.hold(&target.slow_url(), SOON).await.unwrap();

    // Carol goes while nobody looks, and somebody else has come and gone with what dave was to have.
    server.restart_agent();
    let converge = async |users: &[EngineUser]| server.engine.converge(users, server.pid()).await.unwrap();
    assert_eq!(converge(&[alice.clone(), bob.clone()]).await, Converged::default());
    expect(&server, &[]).await;
    still_reads(&open).await;

    // With another secret, be it expected or not, the old one is void.
    let again = [shadowsocks("bob"), shadowsocks("bob")];
    expect(&server, &secrets(&[&again[0]])).await;
    let client = XrayClient::many(again.each_ref().map(|user| server.link(user))).await.unwrap();
    let mut held = open;
    for (bob, tunnel) in again.iter().zip(client.tunnels()) {
        server.add(std::slice::from_ref(bob)).await;
        server.has_connections(0).await;
        tunnel.fetch(&url, SOON).await.unwrap();
        drop(std::mem::replace(&mut held, tunnel.hold(&target.slow_url(), SOON).await.unwrap()));
    }
    for tunnel in [his, third, fourth, &client.tunnels()[0]] {
        is_refused(tunnel, &url).await;
    }
    still_reads(&held).await;
    hers.fetch(&url, SOON).await.unwrap();
    assert_eq!(converge(&[alice, again[1].clone()]).await, Converged::default());
}

/// Many changes at once make a new inbound, which must have everybody of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_expected_stays_so_when_thousands_come() {
    let target = Target::start().await;
    let url = target.bytes_url(100);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(shadowsocks);
    let server = Server::start(Protocol::Shadowsocks2022, std::slice::from_ref(&alice)).await;
    let client = XrayClient::many([&bob, &carol].map(|user| server.link(user))).await.unwrap();
    let [his, hers] = &client.tunnels()[..] else { panic!("two tunnels") };
    expect(&server, &secrets(&[&bob])).await;
    server.add(std::slice::from_ref(&bob)).await;
    // She is expected, and not there yet.
    server.engine.expect(&secrets(&[&carol]), server.pid()).await.unwrap();
    server.add(&super::server::users(Protocol::Shadowsocks2022, 2_000)).await;
    his.fetch(&url, SOON).await.unwrap();
    hers.fetch(&url, SOON).await.unwrap();
    assert!(!server.engine.learn().await.unwrap(), "nobody is missing");
    server.add(std::slice::from_ref(&carol)).await;
    server.remove(&[&carol]).await;
    is_refused(hers, &url).await;
    his.fetch(&url, SOON).await.unwrap();
}
