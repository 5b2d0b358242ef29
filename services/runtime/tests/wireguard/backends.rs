//! As an instance of a backend: started as the agent starts it, with the rights that it gets there.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use contract::{NodeName, value::Transport};
use runtime::{
    backend::{
        ContainerRuntime, ContainerState, Spec,
        detect,
        docker::{self, Docker},
        process::{self, Process},
    },
    engine::{Engine as _, wireguard::{Place, Wireguard}},
};
use testkit::{netns::Namespace, ports, programs::program, sites::Target, wireguard_client::WireguardClient};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::world::{PAGE_WITHIN, READY_WITHIN, User, engine_server, page};

const DEVICE: &str = env!("CARGO_BIN_EXE_wireguard-device");

#[tokio::test(flavor = "multi_thread")]
async fn a_child_process_serves() {
    // A host of its own: what is done to a network is done there.
    let host = Namespace::new();
    let name = host.name().to_owned();
    let alone = host.host(|| async move {
        let home = home();
        let search = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
        let settings = process::Settings { node: node(), state_dir: home.path().to_owned(), search };
        let backend = Process::open(settings, TaskTracker::new()).await.unwrap();
        let site = Namespace::new();
        let cable = Namespace::named(&name).connect(Some(&site));
        let target = site.host(|| Target::start_on(Ipv4Addr::UNSPECIFIED.into())).await;
        let port = target.address().port();
        let (run_dir, image) = (home.path().join("run"), "none:none");
        serves(&backend, run_dir, image, &page(&cable.far.to_string(), port, 1_000_000), cable.far, Some(&name)).await;
    });
    alone.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_serves() {
    let socket = detect::docker_socket(std::env::var("DOCKER_HOST").ok().as_deref()).unwrap();
    let home = home();
    let image = Image::build(home.path());
    let deadlines = docker::Deadlines::default();
    let backend = Docker::new(docker::Settings { node: node(), socket, deadlines }, TaskTracker::new());
    let bridge = bridge();
    let target = Target::start_on(bridge.into()).await;
    let url = target.bytes_url(1_000_000);
    serves(&backend, home.path().join("run"), &image.name, &url, bridge, None).await;
}

/// `at` is where the page is, which is allowed.
async fn serves(
    backend: &dyn ContainerRuntime,
    run_dir: PathBuf,
    image: &str,
    url: &str,
    at: Ipv4Addr,
    host: Option<&str>,
) {
    let mut server = engine_server(ports::free());
    server.server.allow_private = vec![ipnet::IpNet::from(IpAddr::from(at))];
    let place = Place {
        run_dir: run_dir.clone(),
        inside: backend.inside(&run_dir),
        image: image.parse().unwrap(),
        program: DEVICE.into(),
    };
    let engine = Wireguard::new(place, &server);
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
    engine.prepare(&server, &users).await.unwrap();
    backend.create(&spec).await.unwrap();
    let host = host.map(Namespace::named);

    // Twice: what the first run leaves is in the way of none.
    for _ in 0..2 {
        engine.prepare(&server, &users).await.unwrap();
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
        let file = user.file(&server);
        let client = match &host {
            Some(host) => WireguardClient::connect_to(&file, host).await,
            None => WireguardClient::connect(&file).await,
        };
        let page = client.fetch(url, PAGE_WITHIN).await;
        let page = page.unwrap_or_else(|error| panic!("{error}: {status}"));
        assert_eq!(page.bytes, 1_000_000);
        backend.stop(&spec.server, Duration::from_secs(5)).await.unwrap();
    }
    let exits = backend.list().await.unwrap().into_iter().map(|container| container.state);
    assert_eq!(exits.collect::<Vec<_>>(), [ContainerState::Exited { code: 0 }]);
    backend.remove(&spec.server).await.unwrap();
}

/// As `tools/images/build` makes it, of the device alone. Removed when dropped.
struct Image {
    name: String,
}

impl Image {
    fn build(home: &Path) -> Self {
        let context = home.join("context");
        let put = |from: &str, to: &str| {
            let to = context.join("rootfs").join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        };
        put(DEVICE, "/vpnd");
        let libraries = Command::new(program("ldd")).arg(DEVICE).output().unwrap().stdout;
        for word in String::from_utf8(libraries).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
            put(word, word);
        }
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY rootfs/ /\nENTRYPOINT [\"/vpnd\"]\n").unwrap();
        let name = format!("vpn-test-wireguard:{}", Uuid::new_v4().simple());
        let mut build = Command::new(program("docker"));
        build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", &name]).arg(&context);
        let output = build.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no image: {said}; `tools/daemons start` starts a daemon");
        Self { name }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new(program("docker")).args(["image", "rm", "-f", &self.name]).output();
    }
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
