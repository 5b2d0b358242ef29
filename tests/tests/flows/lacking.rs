//! Buses and daemons that are not what they should be, and disks that are full.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use contract::{
    Code, Protocol,
    fleet::DeleteServer,
    runtime::{InstanceState, ListInstances},
    users::{Get, List},
};
use flows::{
    House,
    house::{self, Plan},
    programs::{ours, said},
};
use testkit::{
    nats::NatsServer, ports, process::Process, programs::program, wait::eventually, xray_client::XrayClient,
};
use tokio::net::UnixListener;

use crate::{
    agent::knows,
    world::{SOON, World, named},
};

/// What is promised, with the start of the program that asks.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

fn vpn(url: &str, args: &[&str]) -> (String, Option<i32>, Duration) {
    let mut vpn = Command::new(ours("vpn"));
    vpn.args(["--nats", url]).args(args).env_remove("NATS_URL").env_remove("NATS_CONTEXT");
    let asked = Instant::now();
    let output = vpn.output().unwrap();
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code(), asked.elapsed())
}

fn refused(url: &str, code: &str, exit: i32, within: Duration) {
    let (said, ended, took) = vpn(url, &["users", "create", "alice"]);
    assert!(said.contains(&format!("error[{code}]")) && said.contains("\nhelp: "), "{url}: {said}");
    assert_eq!(ended, Some(exit), "{url}: {said}");
    assert!(took < within, "{url} took {took:?}");
    println!("{code}: after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_none_or_not_good_enough_is_told_at_once() {
    refused("nats://127.0.0.1:1", "bus.unreachable", 69, ANSWERS_WITHIN);
    refused("nats://no-such-host.invalid:4222", "bus.unreachable", 69, SOON);
    refused("nonsense://x", "bus.unreachable", 69, ANSWERS_WITHIN);
    // Something that listens and is no nats-server; and one that says nothing at all, where only time can tell.
    let http = testkit::sites::Target::start().await;
    refused(&format!("nats://{}", http.address()), "bus.unreachable", 69, Duration::from_secs(5));

    let core = NatsServer::options().without_jetstream().start().await;
    refused(&core.url(), "bus.no_jetstream", 69, ANSWERS_WITHIN);
    let old = NatsServer::options().old().start().await;
    refused(&old.url(), "bus.too_old", 69, ANSWERS_WITHIN);
    let empty = NatsServer::start().await;
    refused(&empty.url(), "bus.no_responders", 69, ANSWERS_WITHIN);

    // A service says the same, and ends.
    for (url, code) in [(core.url(), "bus.no_jetstream"), (old.url(), "bus.too_old")] {
        let mut vpnd = Command::new(ours("vpnd"));
        let started = Instant::now();
        let output = vpnd.args(["users", "--nats", &url]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(code) && !output.status.success(), "{said}");
        assert!(started.elapsed() < ANSWERS_WITHIN, "{code} took {:?}", started.elapsed());
    }
    // It waits for a bus that is not there yet, and says so.
    let mut vpnd = Command::new(ours("vpnd"));
    vpnd.args(["users", "--nats", &format!("nats://127.0.0.1:{}", ports::free())]);
    let waiting = Process::spawn("vpnd users", &vpnd);
    eventually("it says what it waits for", SOON, async || waiting.log().contains("bus.unreachable")).await;
}

/// JetStream takes three quarters of a disk, and streams reserve 320 MB of that.
const BUS_DISK: u32 = 512;

/// A small disk below the folder of a house. Dropped, it goes, and what the house could not remove because of it.
struct Disk {
    home: PathBuf,
    place: PathBuf,
}

impl Disk {
    fn at(home: &Path, place: &str, megabytes: u32) -> Self {
        let (home, place) = (home.to_owned(), home.join(place));
        fs::create_dir_all(&place).unwrap();
        let mut mount = Command::new(program("mount"));
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=711"), "tmpfs"]).arg(&place);
        said(&mut mount).unwrap();
        Self { home, place }
    }

    /// Fills it to the last byte; returns what to remove to make room again.
    fn fill(&self) -> PathBuf {
        let ballast = self.place.join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        let full =
            std::iter::repeat_with(|| std::io::Write::write_all(&mut file, &[0; 4096])).find(Result::is_err);
        assert!(full.is_some());
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = said(Command::new(program("umount")).arg("-l").arg(&self.place));
        let _ = fs::remove_dir_all(&self.home);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_below_the_bus_refuses_and_loses_nothing() {
    let home = house::folder();
    let disk = Disk::at(home.path(), "data/bus", BUS_DISK);
    let house = House::start_in(home, Plan::on("process")).await;
    let bus = house.bus().await;
    let mut acknowledged = Vec::new();
    for number in 0..50 {
        acknowledged.push(bus.call(named(&format!("before{number}"))).await.unwrap());
    }
    let ballast = disk.fill();
    let asked = Instant::now();
    // What was allocated already may still take some. nats-server then keeps silent, so only time can tell.
    let (error, took) = loop {
        let sent = Instant::now();
        match bus.call(named(&format!("full{}", acknowledged.len()))).await {
            Ok(user) => acknowledged.push(user),
            Err(error) => break (error, sent.elapsed()),
        }
        assert!(asked.elapsed() < SOON, "{} users fit a full disk", acknowledged.len());
    };
    println!("full disk: {} after {took:?}, {} were acknowledged", error.code, acknowledged.len());
    assert!([Code::BUS_STORAGE_FULL, Code::BUS_STORE_FAILED].contains(&error.code), "{error}");
    assert!(error.message.contains("disk") && !error.hint.is_empty(), "{error}");
    assert!(took < bus::call::CALL_WITHIN, "{took:?}");
    for user in &acknowledged {
        assert_eq!(bus.call(Get { name: user.name.clone() }).await.unwrap(), *user);
    }

    fs::remove_file(ballast).unwrap();
    let since = Instant::now();
    eventually("users can be created again", 2 * SOON, async || match bus.call(named("after")).await {
        Err(error) if error.code == Code::USERS_NAME_TAKEN => Ok(()),
        other => other.map(drop),
    })
    .await;
    println!("full disk: goes on {:?} after there is room", since.elapsed());
    for user in &acknowledged {
        assert_eq!(bus.call(Get { name: user.name.clone() }).await.unwrap(), *user);
    }
    let total = bus.call(List::default()).await.unwrap().total;
    assert!(total > acknowledged.len() as u64, "{total}");
    eventually("everybody has credentials", SOON, async || {
        let issued = bus.call(contract::keys::Status {}).await.map_err(|error| error.to_string())?.users;
        if issued == total { Ok(()) } else { Err(format!("{issued} of {total}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_small_for_the_bus_is_told() {
    let home = house::folder();
    let _disk = Disk::at(home.path(), "data/bus", 16);
    let mut vpnd = Command::new(ours("vpnd"));
    let url = format!("nats://127.0.0.1:{}", ports::free());
    vpnd.args(["all", "--embedded-bus", "--backend", "process", "--nats", &url, "--nats-server"]);
    vpnd.arg(program("nats-server")).arg("--data").arg(home.path().join("data"));
    let output = vpnd.arg("--run-dir").arg(home.path().join("run")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("bus.storage_full") && !output.status.success(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_below_the_agent_is_told_and_got_over() {
    let home = house::folder();
    let disk = Disk::at(home.path(), "data/runtime", 8);
    let internet = flows::internet::Internet::open().await;
    let house = House::start_in(home, Plan::on("process")).await;
    let bus = house.bus().await;
    let mut world = World { house, bus, internet };
    world.serve("before", Protocol::Shadowsocks2022).await;
    world.create("alice").await;
    let client = XrayClient::start(&world.link("alice", "before").await).await.unwrap();
    client.accepted(&world.page(), SOON).await.unwrap();
    let held = client.hold(&world.slow(), SOON).await.unwrap();

    let ballast = disk.fill();
    let (port, range) = (ports::free().to_string(), format!("{}/32", world.internet.address()));
    let args = ["servers", "create", "after", "--protocol", "shadowsocks-2022", "--port", &port];
    said(world.house.vpn(args).args(["--allow-private", &range])).unwrap();
    let error = eventually("its failure is told", SOON, async || {
        let instances = world.bus.call(ListInstances {}).await.map_err(|error| error.to_string())?.instances;
        match instances.into_iter().find(|instance| instance.server.as_str() == "after").map(|one| one.state)
        {
            Some(InstanceState::Failed { error }) => Ok(error),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(error.code, Code::RUNTIME_DISK_FULL, "{error}");
    // Who is served goes on being served, and users come and go.
    world.create("bob").await;
    let late = client.add(&world.link("bob", "before").await).await.unwrap();
    late.accepted(&world.page(), SOON).await.unwrap();
    assert!(held.is_open());
    // What it cannot keep it tries to keep again, also where nothing changes any more.
    let failures = |world: &mut World| world.house.vpnd().log().matches("desired could not be saved").count();
    let before = failures(&mut world);
    eventually("the agent goes on trying", SOON, async || failures(&mut world) > before + 1).await;

    fs::remove_file(ballast).unwrap();
    let since = Instant::now();
    eventually("what is desired is kept", SOON, async || knows(&world, "bob")).await;
    world.house.runs(&world.bus, "after").await;
    println!("full disk of an agent: the server runs {:?} after there is room", since.elapsed());
    let client = XrayClient::start(&world.link("bob", "after").await).await.unwrap();
    client.accepted(&world.page(), SOON).await.unwrap();
}

/// Takes every connection and never says a word.
struct Mute(tokio::task::JoinHandle<()>);

impl Mute {
    fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Self(tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.push(stream);
            }
        }))
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_hangs_holds_nobody_up() {
    /// What the agent waits for an answer of the daemon, and slack.
    const GIVES_UP_WITHIN: Duration = Duration::from_secs(10);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let mute = Mute::at(&socket);
    let plan = Plan { docker_host: Some(format!("unix://{}", socket.display())), ..Plan::on("docker") };
    let started = Instant::now();
    let house = House::start(plan).await;
    println!("a hanging daemon: the house is up after {:?}", started.elapsed());
    let bus = house.bus().await;

    // Everything that needs no daemon answers as ever.
    let asked = Instant::now();
    bus.call(named("alice")).await.unwrap();
    let port = ports::free().to_string();
    let args = ["servers", "create", "s", "--protocol", "shadowsocks-2022", "--port", &port];
    said(&mut house.vpn(args)).unwrap();
    said(&mut house.vpn(["users", "list"])).unwrap();
    assert!(asked.elapsed() < 2 * ANSWERS_WITHIN, "{:?}", asked.elapsed());
    // What looks at the daemon says so, in the time that it was given.
    let asked = Instant::now();
    let inspected = house.vpn(["nodes", "inspect", house.node()]).output().unwrap();
    let report = String::from_utf8_lossy(&[inspected.stdout, inspected.stderr].concat()).into_owned();
    println!("a hanging daemon: inspected after {:?}", asked.elapsed());
    assert!(asked.elapsed() < GIVES_UP_WITHIN, "{:?}: {report}", asked.elapsed());
    assert!(report.contains("docker"), "{report}");

    let created = Instant::now();
    let error = eventually("the instance's failure is told", 2 * GIVES_UP_WITHIN, async || {
        let instances = bus.call(ListInstances {}).await.map_err(|error| error.to_string())?.instances;
        match instances.first().map(|instance| instance.state.clone()) {
            Some(InstanceState::Failed { error }) => Ok(error),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    println!("a hanging daemon: told after {:?}: {error}", created.elapsed());
    let known = [Code::RUNTIME_BACKEND_TIMEOUT, Code::RUNTIME_BACKEND_UNREACHABLE];
    assert!(known.contains(&error.code), "{error}");
    assert!(!error.hint.is_empty());

    // The daemon dies, and another one is there at the same place.
    drop(mute);
    fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    let since = Instant::now();
    house.runs(&bus, "s").await;
    println!("a hanging daemon: the server runs {:?} after a good one is there", since.elapsed());
    bus.call(DeleteServer { name: "s".parse().unwrap() }).await.unwrap();
    eventually("its container is gone", SOON, async || house.containers().is_empty()).await;
}
