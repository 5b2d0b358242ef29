//! The container daemon killed while users are being created and servers come and go.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{
    Code, Protocol,
    fleet::{DeleteServer, ListServers, Server},
    runtime::{InstanceState, ListInstances},
};
use flows::{House, house::Plan, programs::said};
use runtime::engine::xray;
use testkit::{
    netns::{Cable, Namespace},
    ports,
    programs::program,
    sites::Target,
    wait::eventually,
    xray_client::XrayClient,
};

use crate::{
    creation::{Creation, insist, nobody_is_lost},
    world::{Dice, SOON, link},
};

const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// 1 to 2 s on an idle machine; containers that it has to bury take longer.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// Servers that failed are tried again after up to 10 s.
const SERVERS_WITHIN: Duration = Duration::from_secs(90);
const ROUNDS: usize = 3;

/// dockerd beside the machine's own: with files of its own, in a network of its own, where two of them do not take
/// each other's bridge and rules away.
struct Dockerd {
    process: Option<Child>,
    network: Namespace,
    cable: Cable,
    home: tempfile::TempDir,
}

impl Dockerd {
    async fn start() -> Self {
        assert!(Path::new(CONTAINERD).exists(), "containerd does not run: run `make setup`");
        let network = Namespace::new();
        let cable = network.connect(None);
        let home = tempfile::Builder::new().prefix("vpn-flows-").tempdir().unwrap();
        let mut dockerd = Self { process: None, network, cable, home };
        dockerd.start_again().await;
        let image = dockerd.home.path().join("image");
        let name = xray::IMAGE;
        let saved = said(Command::new(program("docker")).args(["save", "-o"]).arg(&image).arg(name));
        saved.unwrap_or_else(|error| panic!("{error}: run `make images`"));
        said(dockerd.docker(&["load", "-i"]).arg(&image)).unwrap();
        dockerd
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("d.sock")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// In containerd names are letters, digits and dashes.
    fn namespace(&self) -> String {
        let name = self.home.path().file_name().unwrap().to_str().unwrap();
        name.to_ascii_lowercase().trim_end_matches('-').to_owned()
    }

    async fn start_again(&mut self) {
        let (home, namespace) = (self.home.path(), self.namespace());
        let log = fs::File::options().create(true).append(true).open(home.join("log")).unwrap();
        let process = Command::new(program("nsenter"))
            .arg(format!("--net=/run/netns/{}", self.network.name()))
            .arg(program("dockerd"))
            .args(["--iptables=false", "--ip6tables=false", "--containerd", CONTAINERD])
            .args(["--containerd-namespace", &namespace])
            .args(["--containerd-plugins-namespace", &format!("{namespace}-p")])
            .arg(format!("--host={}", self.host()))
            .args(["--data-root".as_ref(), home.join("data").as_os_str()])
            .args(["--exec-root".as_ref(), home.join("exec").as_os_str()])
            .args(["--pidfile".as_ref(), home.join("pid").as_os_str()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        eventually("the daemon answers", UP_WITHIN, async || said(&mut self.docker(&["version"]))).await;
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        // A daemon that is killed leaves its pid file; if the number is used again, the next one refuses to start.
        let _ = fs::remove_file(self.home.path().join("pid"));
    }

    /// As its operator restarts it.
    async fn restart(&mut self) {
        let process = self.process.as_mut().unwrap();
        said(Command::new("kill").arg(process.id().to_string())).unwrap();
        process.wait().unwrap();
        self.start_again().await;
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new(program("docker"));
        docker.args(["--host", &self.host()]).args(arguments);
        docker
    }

    /// The first processes of containers, known to a daemon or not: each has the folder of the house mounted.
    fn engines(&self, house: &House) -> usize {
        let ours = house.run_dir().display().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let engine = |process: &fs::DirEntry| {
            let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            let first = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
            // The shared folder is told as seen from its own file system.
            let folder = ours.trim_start_matches("/tmp");
            first && mounts.contains(folder)
        };
        processes.filter(engine).count()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // Asked to, it lets go of its mounts.
        let _ = said(Command::new("kill").arg(process.id().to_string()));
        let deadline = Instant::now() + SOON;
        while process.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
        // What a daemon that was killed leaves in the machine.
        let ctr = |args: &[&str]| {
            let mut ctr = Command::new(program("ctr"));
            said(ctr.args(args).stderr(Stdio::null())).unwrap_or_default()
        };
        let namespace = self.namespace();
        for task in ctr(&["-n", &namespace, "tasks", "ls", "-q"]).lines() {
            ctr(&["-n", &namespace, "tasks", "delete", "--force", task]);
        }
        for container in ctr(&["-n", &namespace, "containers", "ls", "-q"]).lines() {
            ctr(&["-n", &namespace, "containers", "delete", container]);
        }
        ctr(&["namespaces", "remove", &namespace, &format!("{namespace}-p")]);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(self.home.path())) {
            let _ = said(Command::new("umount").args(["-l", place]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_is_killed() {
    let dice = Arc::new(Dice::new());
    let mut dockerd = Dockerd::start().await;
    let address = dockerd.cable.near;
    let target = dockerd.network.host(move || Target::start_on(address.into())).await;
    let plan = Plan { docker_host: Some(dockerd.host()), address: address.to_string(), ..Plan::on("docker") };
    let house = House::start(plan).await;
    let bus = house.bus().await;
    let serve = |name: String| {
        let (port, range) = (ports::free().to_string(), format!("{address}/32"));
        let args = ["servers", "create", &name, "--protocol", "shadowsocks-2022", "--port", &port];
        let created = said(house.vpn(args).args(["--allow-private", &range]));
        created.unwrap_or_else(|error| panic!("{error}"));
        name
    };
    serve("first".to_owned());
    house.runs(&bus, "first").await;

    let creation = Creation::begin(&bus, &dice);
    let mut worst = Duration::ZERO;
    for round in 0..ROUNDS {
        // In the midst of making one container and removing another.
        serve(format!("new-{round}"));
        if round > 0 {
            let name = format!("new-{}", round - 1).parse().unwrap();
            insist(&bus, DeleteServer { name }).await.unwrap();
        }
        tokio::time::sleep(dice.millis(0..600)).await;
        let since = Instant::now();
        dockerd.kill();
        // Without the daemon, everything else goes on.
        creation.goes_on(Instant::now()).await;
        worst = worst.max(since.elapsed());
        dockerd.start_again().await;
    }
    let acknowledged = creation.end().await;
    println!("the next user after a kill of dockerd, at worst: {worst:?}");
    nobody_is_lost(&bus, &acknowledged).await;

    let since = Instant::now();
    let desired = insist(&bus, ListServers::default()).await.unwrap().servers;
    let settled = eventually("each runs, or says what holds it up", SERVERS_WITHIN, async || {
        let instances = bus.call(ListInstances {}).await.map_err(|error| error.to_string())?.instances;
        let of = |server: &Server| instances.iter().find(|instance| instance.server == server.name);
        let held = |error: &contract::Error| error.code == Code::RUNTIME_PORT_IN_USE;
        let mut ports_held = 0;
        for server in &desired {
            match of(server).map(|instance| &instance.state) {
                Some(InstanceState::Running) => {}
                // Not for a moment only: an instance that goes away holds its port a little longer.
                Some(InstanceState::Failed { error }) if held(error) && since.elapsed() > SOON => {
                    ports_held += 1
                }
                other => return Err(format!("{}: {other:?}", server.name)),
            }
        }
        Ok(ports_held)
    });
    let ports_held = settled.await;
    if ports_held > 0 {
        // dockerd 20.10 that was killed while it started a container can hold that container's port, for nobody,
        // until it starts anew.
        println!("{ports_held} ports are held by the daemon, for nobody: it is restarted");
        dockerd.restart().await;
    }
    for server in &desired {
        house.runs(&bus, server.name.as_str()).await;
    }
    println!("{} servers run {:?} after all that", desired.len(), since.elapsed());
    eventually("nothing is orphaned or doubled", SOON, async || {
        let (known, real) = (house.containers(), dockerd.engines(&house));
        let good = known.len() == desired.len() && known.iter().all(|(_, state)| state == "running");
        if good && real == known.len() { Ok(()) } else { Err(format!("{known:?}, really {real}")) }
    })
    .await;
    assert!(desired.iter().all(|server| server.protocol == Protocol::Shadowsocks2022));
    let user = acknowledged[dice.throw(acknowledged.len())].to_string();
    for server in &desired {
        let client = XrayClient::start(&link(&bus, &user, server.name.as_str()).await).await.unwrap();
        client.accepted(&target.bytes_url(1000), SOON).await.unwrap();
    }
}
