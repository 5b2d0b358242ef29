//! Sessions end with access, whoever was looking.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use runtime::{engine::Engine as _, netns, sockets};
use testkit::{
    programs::program,
    sites::Target,
    wait::eventually,
    xray_client::{Held, XrayClient},
};

use super::{
    connect::still_reads,
    proxy::Proxy,
    server::{PROTOCOLS, SOON, Server, user},
};

/// What is promised to an operator who removes somebody.
const PROMISED: Duration = Duration::from_secs(1);

/// Waits until the server has so many connections left, and sees that it was in time.
async fn ends_in_time(server: &Server, left: usize, since: Instant, what: &str) {
    server.has_connections(left).await;
    let took = since.elapsed();
    assert!(took < PROMISED, "{what}: it took {took:?}");
    println!("{}, {what}: {took:?}", server.desired.server.protocol);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_loses_open_sessions_and_nobody_else_does() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
        let server = Server::start(protocol, &[alice.clone(), bob.clone()]).await;
        let client = XrayClient::many([server.link(&alice), server.link(&bob)]).await.unwrap();
        let [first, second] = &client.tunnels()[..] else { panic!("two tunnels") };
        let hers = first.hold(&target.slow_url(), SOON).await.unwrap();
        let mut his = Vec::new();
        for _ in 0..10 {
            his.push(second.hold(&target.slow_url(), SOON).await.unwrap());
        }

        let since = Instant::now();
        server.remove(&[&bob]).await;
        ends_in_time(&server, 1, since, "removed").await;
        still_reads(&hers).await;
        assert_ended(&his).await;

        // With another secret under the same name, the old sessions end as well.
        let since = Instant::now();
        server.add(&[user(protocol, "alice")]).await;
        ends_in_time(&server, 0, since, "another secret").await;
        assert_ended(&[hers]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_started_anew_knows_the_sessions_that_it_finds() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let (alice, bob, carol) = (user(protocol, "alice"), user(protocol, "bob"), user(protocol, "carol"));
        let everybody = [alice.clone(), bob.clone(), carol.clone()];
        let mut server = Server::start(protocol, &everybody).await;
        let links = [&alice, &bob, &carol].map(|user| server.link(user));
        let client = XrayClient::many(links).await.unwrap();
        let [first, second, third] = &client.tunnels()[..] else { panic!("three tunnels") };
        let hers = first.hold(&target.slow_url(), SOON).await.unwrap();
        let his = second.hold(&target.slow_url(), SOON).await.unwrap();
        let third = third.hold(&target.slow_url(), SOON).await.unwrap();

        // Bob is removed while no agent is there; carol later, by the new one.
        server.restart_agent();
        let since = Instant::now();
        let converged = server.engine.converge(&[alice.clone(), carol.clone()], server.pid()).await.unwrap();
        assert_eq!(converged.removed, 1);
        ends_in_time(&server, 2, since, "removed while no agent was there").await;
        let since = Instant::now();
        server.remove(&[&carol]).await;
        ends_in_time(&server, 1, since, "removed by an agent started anew").await;
        still_reads(&hers).await;
        assert_ended(&[his, third]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_no_line_tells_of_ends_too() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
        let mut server = Server::start(protocol, &[alice.clone(), bob.clone()]).await;
        // Xray does not count who comes from 127.0.0.1.
        let his = Proxy::start(&server.link(&bob), "127.0.0.9").await;
        let hers = XrayClient::start(&server.link(&alice)).await.unwrap();
        let _held = his.hold(target.address()).await;
        // Xray drops lines when it writes too many; here his is lost, and hers is not.
        fs::File::options().write(true).open(server.file("access.log")).unwrap().set_len(0).unwrap();
        server.restart_agent();
        server.engine.converge(&[alice.clone(), bob.clone()], server.pid()).await.unwrap();
        let hers = hers.hold(&target.slow_url(), SOON).await.unwrap();

        let since = Instant::now();
        server.remove(&[&bob]).await;
        ends_in_time(&server, 1, since, "not in the log").await;
        still_reads(&hers).await;
    }
}

/// Some handshakes are always under way when somebody is removed: accepted before, in the log after.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_slips_in_while_being_removed() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
        let server = Server::start(protocol, std::slice::from_ref(&alice)).await;
        let client = XrayClient::many([server.link(&alice), server.link(&bob)]).await.unwrap();
        let [first, second] = &client.tunnels()[..] else { panic!("two tunnels") };
        let hers = first.hold(&target.slow_url(), SOON).await.unwrap();
        for round in 0..20_u32 {
            server.add(std::slice::from_ref(&bob)).await;
            let trying: Vec<_> = (0..16_u32)
                .map(|number| {
                    let (tunnel, url) = (second.clone(), target.slow_url());
                    tokio::spawn(async move {
                        // Spread over the moment in which he is removed.
                        tokio::time::sleep(Duration::from_millis(2) * number).await;
                        tunnel.hold(&url, Duration::from_secs(1)).await.ok()
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(2) * round).await;
            let since = Instant::now();
            server.remove(&[&bob]).await;
            let tried = futures::future::join_all(trying).await;
            let held: Vec<Held> = tried.into_iter().filter_map(Result::unwrap).collect();
            server.has_connections(1).await;
            assert!(since.elapsed() < PROMISED + Duration::from_secs(1), "{protocol}: {:?}", since.elapsed());
            println!("{protocol}, round {round}: {} had got through", held.len());
        }
        still_reads(&hers).await;
    }
}

/// The log is given back to the disk, and what it said is remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_freed_and_its_sessions_are_still_known() {
    let target = Target::start().await;
    for protocol in PROTOCOLS {
        let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
        let mut server = Server::start(protocol, &[alice.clone(), bob.clone()]).await;
        let client = XrayClient::many([server.link(&alice), server.link(&bob)]).await.unwrap();
        let [first, second] = &client.tunnels()[..] else { panic!("two tunnels") };
        let (hers, his) = (
            first.hold(&target.slow_url(), SOON).await.unwrap(),
            second.hold(&target.slow_url(), SOON).await.unwrap(),
        );
        // What ten thousand connections would leave.
        let line = "2026/11/23 11:11:31.730206 from 192.0.2.1:4711 accepted tcp:example.org:443 [vpn-in -> direct] email: alice\n";
        let mut log = fs::File::options().append(true).open(server.file("access.log")).unwrap();
        log.write_all(line.repeat(15_000).as_bytes()).unwrap();
        eventually("the log is freed", SOON, async || log.metadata().unwrap().blocks() * 512 < 100_000).await;

        server.restart_agent();
        let everybody = [alice.clone(), bob.clone()];
        server.engine.converge(&everybody, server.pid()).await.unwrap();
        let since = Instant::now();
        server.remove(&[&bob]).await;
        ends_in_time(&server, 1, since, "known from before the log was freed").await;
        assert!(since.elapsed() < Duration::from_millis(400), "it was only found by counting");
        still_reads(&hers).await;
        drop(his);
    }
}

/// Nothing comes over them any more.
async fn assert_ended(sessions: &[Held]) {
    let bytes = || sessions.iter().map(Held::bytes).sum::<u64>();
    // What was under way has come; a byte every 50 ms would follow.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = bytes();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bytes(), before, "a session goes on");
}

/// What a container's first process is to us: a process in another network namespace.
#[test]
fn connections_in_another_network_namespace_are_found_and_ended() {
    let (tell, told) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let inside = thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root, as `make setup` says");
        assert!(Command::new(program("ip")).args(["link", "set", "lo", "up"]).status().unwrap().success());
        let listener = TcpListener::bind("127.0.0.1:4433").unwrap();
        let mut pairs = [(); 2].map(|()| {
            let client = TcpStream::connect("127.0.0.1:4433").unwrap();
            let (server, _) = listener.accept().unwrap();
            (client, server)
        });
        tell.send((nix::unistd::gettid().as_raw().unsigned_abs(), pairs[0].0.local_addr().unwrap())).unwrap();
        finished.recv().unwrap();
        let [(ended, _), (other, far)] = &mut pairs;
        let reset = ended.read(&mut [0]).unwrap_err();
        far.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
        reset.kind()
    });
    let (process, peer) = told.recv().unwrap();
    assert!(!netns::is_ours(process).unwrap());
    assert!(netns::is_ours(std::process::id()).unwrap());
    let mut found = sockets::connections(process, 4433).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(sockets::connections(std::process::id(), 4433).unwrap(), [], "that is our own namespace");
    found.retain(|connection| connection.peer == peer);
    sockets::end(process, &found).unwrap();
    // What has ended counts as ended.
    sockets::end(process, &found).unwrap();
    finish.send(()).unwrap();
    assert_eq!(inside.join().unwrap(), ErrorKind::ConnectionReset);
}
