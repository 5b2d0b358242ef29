//! As an instance of a backend: started as the agent starts it, with the rights that it gets there.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use contract::{NodeName, value::Transport};
use futures::FutureExt as _;
use ipnet::IpNet;
use runtime::{
    backend::{
        ContainerRuntime, ContainerState, Spec, detect,
        docker::{self, Docker},
        process::{self, Process},
    },
    engine::{
        Engine as _, EngineServer,
        wireguard::{IMAGE, Settings, Wireguard},
    },
};
use testkit::{
    netns::Namespace,
    ports,
    programs::{program, workspace},
    sites::Target,
    wireguard_client::WireguardClient,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::world::{PAGE_WITHIN, READY_WITHIN, User, engine_server, page, vpnd};

const PAGE: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_child_process_serves() {
    // A host of its own: what is done to a network is done there.
    let host = Arc::new(Namespace::new());
    let there = Arc::clone(&host);
    let served = host.host(|| async move {
        let home = home();
        let search = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
        let settings = process::Settings { node: node(), state_dir: home.path().to_owned(), search };
        let backend = Process::open(settings, TaskTracker::new()).await.unwrap();
        let site = Namespace::new();
        let cable = there.connect(Some(&site));
        let target = site.host(|| Target::start_on(Ipv4Addr::UNSPECIFIED.into())).await;
        let url = page(&cable.far.to_string(), target.address().port(), PAGE);
        serves(&backend, home.path().join("run"), &url, cable.far, Some(&there)).await;
    });
    served.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_serves() {
    let socket = detect::docker_socket(std::env::var("DOCKER_HOST").ok().as_deref()).unwrap();
    image();
    let home = home();
    let deadlines = docker::Deadlines::default();
    let backend = Docker::new(docker::Settings { node: node(), socket, deadlines }, TaskTracker::new());
    let bridge = bridge();
    let target = Target::start_on(bridge.into()).await;
    serves(&backend, home.path().join("run"), &target.bytes_url(PAGE), bridge, None).await;
}

/// The page `url` is at an address that is allowed; the instance is in the network `host`, or the test's own.
async fn serves(
    backend: &dyn ContainerRuntime,
    run_dir: PathBuf,
    url: &str,
    at: Ipv4Addr,
    host: Option<&Namespace>,
) {
    let mut server = engine_server(ports::free());
    server.server.allow_private = vec![IpNet::from(IpAddr::from(at))];
    let served = AssertUnwindSafe(serves_twice(backend, run_dir, url, &server, host)).catch_unwind().await;
    // Instances outlive their agent: a failed test must not leave its own.
    let removed = backend.remove(&server.server.name).await;
    served.unwrap_or_else(|panic| resume_unwind(panic));
    removed.unwrap();
}

async fn serves_twice(
    backend: &dyn ContainerRuntime,
    run_dir: PathBuf,
    url: &str,
    server: &EngineServer,
    host: Option<&Namespace>,
) {
    let place = Settings {
        run_dir: run_dir.clone(),
        inside: backend.inside(&run_dir),
        image: IMAGE.parse().unwrap(),
        program: vpnd(),
    };
    let engine = Wireguard::new(place, server);
    let launch = engine.launch();
    let spec = Spec {
        server: server.server.name.clone(),
        server_id: server.server.id,
        revision: "1".to_owned(),
        image: launch.image,
        program: launch.program,
        args: launch.args,
        env: launch.env,
        ports: vec![(server.server.port, Transport::Udp)],
        run_dir: run_dir.clone(),
        rights: launch.rights,
        memory: 64 * 1024 * 1024,
        pids: 64,
        traceparent: None,
    };
    let user = User::new(2);
    let users = [user.engine_user()];
    engine.prepare(server, &users).await.unwrap();
    backend.create(&spec).await.unwrap();

    // Twice: what the first run leaves is in the way of none.
    for _ in 0..2 {
        engine.prepare(server, &users).await.unwrap();
        backend.start(&spec).await.unwrap();
        if let Err(error) = engine.ready(Instant::now() + READY_WITHIN).await {
            panic!("{error}: {}", backend.last_words(&spec.server).await.unwrap());
        }
        let pid = backend.list().await.unwrap().iter().find_map(|container| match container.state {
            ContainerState::Running { pid } => Some(pid),
            _ => None,
        });
        let pid = pid.expect("it runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");

        engine.converge(&users, pid).await.unwrap();
        let file = user.file(server);
        let client = match host {
            Some(host) => WireguardClient::connect_to(&file, host).await,
            None => WireguardClient::connect(&file).await,
        };
        let page = client.fetch(url, PAGE_WITHIN).await;
        let page = page.unwrap_or_else(|error| panic!("{url}: {error}: {status}"));
        assert_eq!(page.bytes, PAGE);
        backend.stop(&spec.server, Duration::from_secs(5)).await.unwrap();
    }
    let exits = backend.list().await.unwrap().into_iter().map(|container| container.state);
    assert_eq!(exits.collect::<Vec<_>>(), [ContainerState::Exited { code: 0 }]);
}

/// Builds the image of the program that is to be tested; half a second where it is there.
fn image() {
    let output = Command::new(workspace().join("tools/images/build")).arg("wireguard").arg(vpnd()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{IMAGE} cannot be built: {said}: `make setup` installs what it takes");
}

/// Where containers find this machine.
fn bridge() -> Ipv4Addr {
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    let inspect = ["network", "inspect", "bridge", "--format", format];
    let output = Command::new(program("docker")).args(inspect).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("docker's bridge has an address")
}

fn node() -> NodeName {
    format!("test-{}", Uuid::new_v4().simple()).parse().unwrap()
}

fn home() -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("vpn-test-wg-").tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    home
}
