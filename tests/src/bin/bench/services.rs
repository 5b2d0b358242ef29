//! What each service takes when it runs alone and idle, and how soon it answers.
//!
//! The floor is the least that a service can be, started in turns with it: a connection that echoes requests.
//! Memory is the resident set (`Rss` of `/proc/PID/smaps_rollup`), of a program that starts as it does after a boot. The
//! kernel maps what it has in its cache around each page that is touched, in pieces as large as they were read in: one
//! and the same file takes 7 MB where nobody had read it, and 12 MB where somebody had read all of it at once.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use async_nats::Client;
use bus::Bus;
use bytes::Bytes;
use flows::{House, house::Plan, programs::ours};
use rustix::fs::{Advice, fadvise};
use seal::MasterKey;
use tempfile::TempDir;
use testkit::{nats::NatsServer, process::Process, programs::program};
use tokio::time::sleep;

use crate::{
    measure::{Pair, median, ms, turn},
    raw::{self, ECHO},
    table::{Goal, Table},
};

pub(crate) const READY_WITHIN: Duration = Duration::from_secs(30);
const ROUNDS: usize = 7;
/// What a start leaves behind is given back by then.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// A service that runs alone.
#[derive(Clone, Copy)]
pub(crate) enum Service {
    Users,
    Keys,
    Fleet,
    Runtime,
    Stats,
}

impl Service {
    const ALL: [Self; 5] = [Self::Users, Self::Keys, Self::Fleet, Self::Runtime, Self::Stats];

    fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Keys => "keys",
            Self::Fleet => "fleet",
            Self::Runtime => "runtime",
            Self::Stats => "stats",
        }
    }

    /// Answered as soon as the service serves.
    fn request(self) -> &'static str {
        match self {
            Self::Users => "vpn.users.list",
            Self::Keys => "vpn.keys.status",
            Self::Fleet => "vpn.fleet.list_nodes",
            Self::Runtime => "vpn.runtime.list",
            Self::Stats => "vpn.stats.top",
        }
    }

    fn command(self, url: &str, home: &Path) -> Command {
        let mut command = Command::new(ours("vpnd"));
        command.args([self.name(), "--nats", url]);
        match self {
            Self::Users | Self::Fleet => {}
            Self::Keys => {
                let file = home.join("master.key");
                drop(MasterKey::load_or_create(&file).unwrap());
                command.arg("--master-key").arg(file);
            }
            Self::Stats => {
                command.arg("--data").arg(home.join("data"));
            }
            Self::Runtime => {
                command.args(["--backend", "process", "--node", "bench", "--address", "127.0.0.1"]);
                command.arg("--data").arg(home.join("data")).arg("--run-dir").arg(home.join("run"));
                command.arg("--xray").arg(program("xray"));
            }
        }
        command
    }

    /// Starts it; it needs no files of its own.
    pub(crate) fn start(self, url: &str) -> Process {
        Process::spawn(self.name(), &self.command(url, Path::new("/nonexistent")))
    }
}

/// A connection as our services have.
pub(crate) async fn connect(url: &str) -> Bus {
    Bus::connect(&bus::Config::new(url, "bench")).await.unwrap()
}

pub(crate) async fn measure(table: &mut Table) {
    forget(&ours("vpnd"));
    let nats = NatsServer::start().await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let home = TempDir::new().unwrap();
    let mut resident = Vec::new();
    let mut floors = Vec::new();
    for service in Service::ALL {
        let (mut start, mut memory) = (Pair::default(), (Vec::new(), Vec::new()));
        for round in 0..ROUNDS {
            for is_ours in turn(round) {
                let (command, request) = if is_ours {
                    (service.command(&nats.url(), home.path()), service.request())
                } else {
                    (raw::echo_command(&nats.url()), ECHO)
                };
                let started = Instant::now();
                let mut process = Process::spawn(service.name(), &command);
                answers(&client, request, &mut process).await;
                if is_ours { &mut start.ours } else { &mut start.floor }.push(started.elapsed());
                sleep(IDLE_AFTER).await;
                if is_ours { &mut memory.0 } else { &mut memory.1 }.push(resident_mb(process.pid()));
            }
        }
        let (ours, floor) = start.ms(50);
        let name = format!("vpnd {}: start until it answers", service.name());
        table.add(name, ours, floor, "ms", Goal::AtMost(100.0));
        floors.push(median(memory.1));
        resident.push((service, median(memory.0), floors[floors.len() - 1]));
    }
    for (service, ours, floor) in resident {
        let name = format!("vpnd {}: idle, resident", service.name());
        table.add(name, ours, floor, "MB", Goal::AtMost(10.0));
    }
    all(table, median(floors)).await;
    side_by_side(table, &nats, &client, home.path()).await;
}

/// All services as processes of their own at the same time: code that they share counts once.
async fn side_by_side(table: &mut Table, nats: &NatsServer, client: &Client, home: &Path) {
    let mut sums = Vec::new();
    for is_ours in turn(0) {
        let mut running = Vec::new();
        for service in Service::ALL {
            let (command, request) = if is_ours {
                (service.command(&nats.url(), home), service.request())
            } else {
                (raw::echo_command(&nats.url()), ECHO)
            };
            let mut process = Process::spawn(service.name(), &command);
            answers(client, request, &mut process).await;
            running.push(process);
        }
        sleep(IDLE_AFTER).await;
        sums.push(running.iter().map(|process| memory_mb(process.pid(), "Pss:")).sum::<f64>());
    }
    table.add("the services side by side: idle, PSS in all", sums[0], sums[1], "MB", Goal::None);
}

/// All services in one process, without their nats-server.
async fn all(table: &mut Table, floor: f64) {
    let mut memory = Vec::new();
    for _ in 0..3 {
        let mut house = House::start(Plan::on("process")).await;
        sleep(IDLE_AFTER).await;
        memory.push(resident_mb(house.vpnd().pid()));
    }
    table.add(
        "vpnd all: idle, resident, without nats-server",
        median(memory),
        floor,
        "MB",
        Goal::AtMost(40.0),
    );
}

/// Has the kernel drop what it holds of a file.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

async fn answers(client: &Client, request: &str, process: &mut Process) {
    let started = Instant::now();
    while client.request(request.to_owned(), Bytes::from_static(b"{}")).await.is_err() {
        process.must_run();
        assert!(
            started.elapsed() < READY_WITHIN,
            "{request} is not answered after {} ms",
            ms(started.elapsed())
        );
        sleep(Duration::from_millis(1)).await;
    }
}

fn resident_mb(pid: u32) -> f64 {
    memory_mb(pid, "Rss:")
}

/// In megabytes.
fn memory_mb(pid: u32, kind: &str) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024.0 / 1e6
}
