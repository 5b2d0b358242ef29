//! As an instance of a backend: another user, another network, another view of the run directory.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use contract::{NodeName, Protocol};
use runtime::{
    backend::{
        CONTAINER_UID, ContainerRuntime, ContainerState, Spec,
        docker::{self, Docker},
        process::{self, Process},
    },
    engine::{
        Engine as _,
        xray::{IMAGE, Place, Xray},
    },
    sockets,
};
use testkit::{
    ports,
    programs::program,
    sites::{Target, TlsSite},
    wait::eventually,
    xray_client::XrayClient,
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    connect::still_reads,
    server::{PROTOCOLS, SOON, desired, link, user},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_child_process_serves_and_cuts() {
    let home = home();
    let search = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    let settings = process::Settings { node: node(), state_dir: home.path().to_owned(), search };
    let backend = Process::open(settings, TaskTracker::new()).await.unwrap();
    for protocol in PROTOCOLS {
        serves_and_cuts(&backend, home.path().join("run"), protocol, [127, 0, 0, 1].into()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_serves_and_cuts() {
    let socket =
        runtime::backend::detect::docker_socket(std::env::var("DOCKER_HOST").ok().as_deref()).unwrap();
    let images = Command::new(program("docker")).args(["images", "-q", IMAGE]).output().unwrap();
    assert!(!images.stdout.is_empty(), "there is no docker daemon, or it has no {IMAGE}: run `make setup`");
    let home = home();
    let deadlines = docker::Deadlines::default();
    let backend = Docker::new(docker::Settings { node: node(), socket, deadlines }, TaskTracker::new());
    for protocol in PROTOCOLS {
        serves_and_cuts(&backend, home.path().join("run"), protocol, bridge()).await;
    }
}

/// `host` is this machine as the instance sees it.
async fn serves_and_cuts(backend: &dyn ContainerRuntime, run_dir: PathBuf, protocol: Protocol, host: IpAddr) {
    let target = Target::start_on(host).await;
    let site = TlsSite::start_on("site.example", host).await;
    let inside = backend.inside(&run_dir);
    let place = Place {
        run_dir: run_dir.clone(),
        inside: inside.clone(),
        image: IMAGE.parse().unwrap(),
        program: program("xray"),
        env: vec![("SSL_CERT_FILE".to_owned(), inside.join("ca.pem").display().to_string())],
    };
    let dest = (protocol == Protocol::VlessReality).then(|| site.address().to_string());
    let server = desired(protocol, ports::free(), dest.as_deref(), &[&format!("{host}/32")]);
    let (alice, bob) = (user(protocol, "alice"), user(protocol, "bob"));
    let everybody = [alice.clone(), bob.clone()];

    let engine = Xray::new(place, protocol, server.server.port);
    engine.prepare(&server, &everybody).await.unwrap();
    fs::write(run_dir.join("ca.pem"), site.ca_pem()).unwrap();
    let launch = engine.launch();
    let port = server.server.port;
    let spec = Spec {
        server: server.server.name.clone(),
        server_id: server.server.id,
        revision: "1".to_owned(),
        image: launch.image,
        program: launch.program,
        args: launch.args,
        env: launch.env,
        ports: protocol.transports().iter().map(|transport| (port, *transport)).collect(),
        run_dir: run_dir.clone(),
        rights: launch.rights,
        memory: 512 * 1024 * 1024,
        pids: 512,
        traceparent: None,
    };
    backend.create(&spec).await.unwrap();
    backend.start(&spec).await.unwrap();
    let pid = backend.list().await.unwrap().iter().find_map(|container| match container.state {
        ContainerState::Running { pid } => Some(pid),
        _ => None,
    });
    let pid = pid.expect("it runs");
    if let Err(error) = engine.ready(tokio::time::Instant::now() + SOON).await {
        panic!("{error}: {}", backend.last_words(&spec.server).await.unwrap());
    }
    if dest.is_some() {
        site.taught(1, SOON).await;
    }
    engine.converge(&everybody, pid).await.unwrap();

    let client = XrayClient::many([&alice, &bob].map(|user| link(&server, user))).await.unwrap();
    let [hers, his] = &client.tunnels()[..] else { panic!("two tunnels") };
    hers.fetch(&target.bytes_url(1_000_000), SOON).await.unwrap();
    let (hers, _his) = (
        hers.hold(&target.slow_url(), SOON).await.unwrap(),
        his.hold(&target.slow_url(), SOON).await.unwrap(),
    );
    let connections = || sockets::connections(pid, port.get()).unwrap().len();
    let before = connections();
    let since = Instant::now();
    engine.remove(std::slice::from_ref(&bob.name), pid).await.unwrap();
    eventually("his session ends", SOON, async || connections() < before).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    still_reads(&hers).await;

    // While it runs, the agent writes as the one user and the instance reads as the other.
    engine.save(&server, std::slice::from_ref(&alice)).await.unwrap();
    for file in ["config.json", "access.log"] {
        let metadata = fs::metadata(run_dir.join(file)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600, "{file}");
        assert_eq!(metadata.uid(), fs::metadata(&run_dir).unwrap().uid(), "{file}");
        if rustix::process::geteuid().is_root() {
            assert_eq!(metadata.uid(), CONTAINER_UID, "{file}");
        }
    }
    // And what was left by the last run is in the way of none.
    backend.stop(&spec.server, Duration::from_secs(5)).await.unwrap();
    engine.prepare(&server, std::slice::from_ref(&alice)).await.unwrap();
    backend.start(&spec).await.unwrap();
    engine.ready(tokio::time::Instant::now() + SOON).await.unwrap();
    backend.remove(&spec.server).await.unwrap();
}

/// Where containers find this machine.
fn bridge() -> IpAddr {
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    let output = Command::new(program("docker"))
        .args(["network", "inspect", "bridge", "--format", format])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("docker's bridge has an address")
}

fn node() -> NodeName {
    format!("test-{}", Uuid::new_v4().simple()).parse().unwrap()
}

/// Instances are other users, and their run directories are below it.
fn home() -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("vpn-test-xray-").tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    home
}
