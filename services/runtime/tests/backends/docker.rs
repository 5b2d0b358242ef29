//! A daemon that hangs, goes away, is asked twice.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use contract::{Code, runtime::ContainerEventKind};
use runtime::backend::{
    ContainerRuntime, ContainerState, Error, Notice, Spec,
    docker::{Deadlines, Docker, Settings},
    instance_name,
};
use testkit::{ports, wait::eventually};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

use crate::site::{SOON, Site, docker_settings, docker_socket, noticed, output, tcp};

/// What stands between an agent and the daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    /// Connections are taken, and nothing is ever said.
    Hangs,
    /// As with a daemon that was killed: nobody listens, open connections break.
    Dead,
}

/// A socket that leads to the daemon, as long as the test says so.
struct Proxy {
    socket: PathBuf,
    line: watch::Sender<Line>,
    connections: Arc<AtomicUsize>,
    _home: tempfile::TempDir,
    _task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("docker.sock");
        let (line, mut seen) = watch::channel(Line::Open);
        let connections = Arc::new(AtomicUsize::new(0));
        let (path, count) = (socket.clone(), Arc::clone(&connections));
        let mut listener = Some(UnixListener::bind(&path).unwrap());
        let task = tokio::spawn(async move {
            let daemon = docker_socket();
            let mut open = JoinSet::new();
            loop {
                let now = *seen.borrow_and_update();
                match (now, &listener) {
                    (Line::Dead, _) => {
                        open.shutdown().await;
                        drop(listener.take());
                        std::fs::remove_file(&path).unwrap();
                        seen.wait_for(|line| *line != Line::Dead).await.unwrap();
                        listener = Some(UnixListener::bind(&path).unwrap());
                    }
                    (_, Some(listening)) => {
                        let accepted = tokio::select! {
                            changed = seen.changed() => { changed.unwrap(); continue }
                            accepted = listening.accept() => accepted,
                        };
                        count.fetch_add(1, Ordering::SeqCst);
                        let (mut client, _) = accepted.unwrap();
                        let daemon = daemon.clone();
                        open.spawn(async move {
                            if now == Line::Hangs {
                                std::future::pending::<()>().await;
                            }
                            let mut daemon = UnixStream::connect(daemon).await.unwrap();
                            let _ = copy_bidirectional(&mut client, &mut daemon).await;
                        });
                    }
                    (_, None) => unreachable!("it listens again before it says so"),
                }
            }
        });
        Self { socket, line, connections, _home: home, _task: task }
    }

    fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self._task.abort();
    }
}

fn at(socket: &Path, site: &Site, deadline: Duration) -> Docker {
    let deadlines = Deadlines { look: deadline, change: deadline, start: deadline, pull: deadline };
    let settings = Settings { node: site.node.clone(), socket: socket.to_owned(), deadlines };
    Docker::new(settings, TaskTracker::new())
}

/// Every call there is, with the name of what it asks of the daemon first.
async fn every_call(docker: &Docker, spec: &Spec) -> Vec<(&'static str, Result<(), Error>)> {
    let grace = Duration::ZERO;
    vec![
        ("version", docker.version().await.map(drop)),
        ("list", docker.list().await.map(drop)),
        ("inspect image", docker.ensure_image(&spec.image).await),
        ("create", docker.create(spec).await),
        ("start", docker.start(spec).await),
        ("inspect", docker.stop(&spec.server, grace).await),
        ("inspect", docker.remove(&spec.server).await),
        ("logs", docker.last_words(&spec.server).await.map(drop)),
    ]
}

#[tokio::test]
async fn a_daemon_that_hangs_is_given_up_at_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(300);
    let (site, proxy) = (Site::docker().await, Proxy::new());
    let spec = site.spec("s1");

    // From the beginning: what is agreed on first is never agreed on.
    proxy.set(Line::Hangs);
    let docker = at(&proxy.socket, &site, DEADLINE);
    for (call, result) in every_call(&docker, &spec).await {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::RUNTIME_BACKEND_TIMEOUT, "{call}");
    }

    // And later, in the middle of things.
    proxy.set(Line::Open);
    eventually("it is agreed", SOON, async || docker.version().await).await;
    proxy.set(Line::Hangs);
    let started = Instant::now();
    let results = every_call(&docker, &spec).await;
    let took = started.elapsed();
    let calls = u32::try_from(results.len()).unwrap();
    for (call, result) in results {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::RUNTIME_BACKEND_TIMEOUT, "{call}");
        assert!(error.message.contains(&format!("docker {call} ")), "{call}: {}", error.message);
    }
    assert!(took < DEADLINE * calls + Duration::from_secs(1), "{calls} calls took {took:?}");
    let checks = docker.checks().await;
    assert!(checks.iter().any(|check| !check.ok && check.detail.contains("version")), "{checks:?}");
}

#[tokio::test]
async fn no_daemon_is_said_within_a_second() {
    let site = Site::fake().await;
    let spec = site.spec("s1");
    let home = tempfile::tempdir().unwrap();
    let left = home.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    for (socket, why) in
        [(home.path().join("none.sock"), "there is no docker socket"), (left, "nobody listens")]
    {
        let docker = at(&socket, &site, Duration::from_secs(30));
        for (call, result) in every_call(&docker, &spec).await {
            let started = Instant::now();
            let error = result.unwrap_err();
            assert_eq!(error.code, Code::RUNTIME_BACKEND_UNREACHABLE, "{call}: {}", error.message);
            assert!(error.message.contains(why), "{call}: {}", error.message);
            assert!(error.message.contains(socket.to_str().unwrap()), "{call}: {}", error.message);
            assert!(started.elapsed() < Duration::from_secs(1), "{call} took {:?}", started.elapsed());
        }
    }
}

#[tokio::test]
async fn a_daemon_that_comes_back_is_a_gap_and_nothing_is_lost() {
    let (site, proxy) = (Site::docker().await, Proxy::new());
    let docker = at(&proxy.socket, &site, Duration::from_secs(10));
    let mut notices = docker.notices();
    let (before, between) = (site.spec("before"), site.spec("between"));
    site.backend.create(&before).await.unwrap();
    let created = |notice: &Notice| match notice {
        Notice::Container { server, kind: ContainerEventKind::Created, .. } => Some(server.clone()),
        _ => None,
    };
    assert_eq!(noticed(&mut notices, created).await, before.server);

    proxy.set(Line::Dead);
    eventually("calls fail", SOON, async || docker.list().await.is_err()).await;
    site.backend.create(&between).await.unwrap();
    proxy.set(Line::Open);
    noticed(&mut notices, |notice| matches!(notice, Notice::Gap).then_some(())).await;
    // The daemon itself was up all the time, and remembers.
    assert_eq!(noticed(&mut notices, created).await, between.server);
    assert_eq!(docker.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn nobody_listens_to_a_daemon_that_is_away() {
    let (site, tasks) = (Site::fake().await, TaskTracker::new());
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("none.sock");
    let settings = Settings { node: site.node.clone(), socket, deadlines: Deadlines::default() };
    let docker = Docker::new(settings, tasks.clone());
    let notices = docker.notices();
    assert_eq!(tasks.len(), 1);
    drop(notices);
    eventually("the task ends", SOON, async || tasks.is_empty()).await;
}

#[tokio::test]
async fn making_and_starting_are_one_call_each() {
    let (site, proxy) = (Site::docker().await, Proxy::new());
    let docker = at(&proxy.socket, &site, SOON);
    docker.version().await.unwrap();
    let spec = site.spec("s1");
    for (what, calls) in [("create", 1), ("start", 1)] {
        let before = proxy.connections();
        match what {
            "create" => docker.create(&spec).await.unwrap(),
            _ => docker.start(&spec).await.unwrap(),
        }
        assert_eq!(proxy.connections() - before, calls, "calls to {what}");
    }
}

#[tokio::test]
async fn a_call_that_nobody_waited_for_leaves_one_container() {
    let site = Site::docker().await;
    for millis in [0, 1, 3, 6, 10, 20, 40] {
        let spec = site.spec(&format!("s{millis}"));
        let impatient =
            at(&docker_socket(), &site, Duration::from_millis(millis).max(Duration::from_micros(100)));
        // Negotiation may time out already; then nothing was asked at all.
        let _ = impatient.create(&spec).await;
        site.backend.create(&spec).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(millis), site.backend.start(&spec)).await;
        site.backend.start(&spec).await.unwrap();
        site.pid(&spec.server).await;
        let _ = tokio::time::timeout(Duration::from_millis(millis), site.backend.remove(&spec.server)).await;
        site.backend.remove(&spec.server).await.unwrap();
        // Whoever is told that it is gone may make it again.
        site.backend.create(&spec).await.unwrap();
        assert_eq!(site.state(&spec.server).await, Some(ContainerState::Created));
    }
    assert_eq!(site.backend.list().await.unwrap().len(), 7);
}

#[tokio::test]
async fn a_stranger_with_the_name_is_left_alone() {
    let site = Site::docker().await;
    let spec = site.spec("s1");
    let name = instance_name(&site.node, &spec.server);
    let id = output("docker", &["create", "--name", &name, spec.image.as_str(), "true"]);
    let error = site.backend.create(&spec).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_INSTANCE_CONFLICT);
    assert!(error.message.contains("not this node's"), "{}", error.message);
    assert_eq!(site.backend.list().await.unwrap(), []);
    assert_eq!(output("docker", &["rm", id.trim()]), id, "it is still there");
}

#[tokio::test]
async fn the_daemon_is_told_what_was_promised() {
    let site = Site::docker().await;
    let port = ports::free();
    let mut spec = site.spec("s1");
    spec.ports = vec![tcp(port), (spec_port(port), contract::value::Transport::Udp)];
    site.up(&spec).await;
    let name = instance_name(&site.node, &spec.server);
    let inspected: serde_json::Value = serde_json::from_str(&output("docker", &["inspect", &name])).unwrap();
    let host = &inspected[0]["HostConfig"];
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["Privileged"], false);
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&spec.memory.into(), &spec.memory.into()));
    assert_eq!(host["LogConfig"]["Type"], "json-file");
    assert!(
        host["LogConfig"]["Config"]["max-size"].is_string()
            && host["LogConfig"]["Config"]["max-file"].is_string()
    );
    let labels = &inspected[0]["Config"]["Labels"];
    assert_eq!(labels["vpn.node"], site.node.as_str());
    assert_eq!(labels["vpn.server"], "s1");
    assert_eq!(labels["vpn.revision"], spec.revision.as_str());
    let published = &inspected[0]["NetworkSettings"]["Ports"];
    for transport in ["tcp", "udp"] {
        let addresses = published[format!("{port}/{transport}")].as_array().unwrap();
        let addresses: Vec<_> = addresses.iter().map(|binding| binding["HostIp"].as_str().unwrap()).collect();
        assert!(addresses.contains(&"0.0.0.0"), "{addresses:?}");
        if Path::new("/proc/net/if_inet6").exists() {
            assert!(addresses.contains(&"::"), "{addresses:?}");
        }
    }
}

#[tokio::test]
async fn the_version_is_agreed_on() {
    let site = Site::docker().await;
    let version = site.backend.version().await.unwrap();
    assert!(version.starts_with("Docker "), "{version}");
    let checks = site.backend.checks().await;
    assert!(checks.iter().any(|check| check.name == "docker" && check.ok), "{checks:?}");
    assert!(checks.iter().any(|check| check.name == "docker limits" && check.ok), "{checks:?}");
    assert_eq!(docker_settings(&site.node).deadlines.look, Duration::from_secs(5));
}

fn spec_port(port: u16) -> contract::Port {
    contract::Port::try_from(u64::from(port)).unwrap()
}
