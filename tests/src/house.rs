//! `vpnd all` with everything it needs, on ports and in folders of its own; or each service by itself on a bus.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bus::Bus;
use contract::{
    Request,
    fleet::{DeleteServer, ListServers},
    runtime::{Instance, InstanceState, ListInstances},
};
use tempfile::TempDir;
use testkit::{nats::NatsServer, ports, process::Process, programs::program, wait::eventually};

use crate::{
    programs::{ours, said},
    sweep,
};

/// Ready in milliseconds; a loaded machine gets time.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Each step of a server's life, on a loaded machine.
const SERVER_WITHIN: Duration = Duration::from_secs(60);

/// How a house is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `docker` or `process`.
    pub backend: String,
    /// The name of its node: that of no other house that runs at the same time.
    pub node: String,
    /// Where traces go.
    pub otlp: Option<String>,
    /// The name or address that links carry.
    pub address: String,
    /// Another Docker daemon than the machine's: `unix://…`.
    pub docker_host: Option<String>,
    /// Each service is a process of its own, and the bus is nobody's child.
    pub apart: bool,
    /// What is logged.
    pub log: String,
}

impl Plan {
    /// One on this backend, whose node has a name of its own.
    pub fn on(backend: &str) -> Self {
        let node = sweep::node(ports::free());
        let address = "127.0.0.1".to_owned();
        let (backend, log) = (backend.to_owned(), "info".to_owned());
        Self { backend, node, otlp: None, address, docker_host: None, apart: false, log }
    }

    /// What runs in it.
    fn parts(&self) -> &'static [&'static str] {
        if self.apart { &SERVICES } else { &["all"] }
    }
}

/// The services of a house whose parts are apart.
pub const SERVICES: [&str; 5] = ["users", "keys", "fleet", "runtime", "stats"];

/// A running house. Dropped, it takes its servers down and ends.
pub struct House {
    plan: Plan,
    parts: BTreeMap<&'static str, Process>,
    /// Of a house whose parts are apart.
    nats: Option<NatsServer>,
    port: u16,
    home: TempDir,
}

impl House {
    /// Starts it and waits until all services answer.
    pub async fn start(plan: Plan) -> Self {
        Self::start_in(folder(), plan).await
    }

    /// The same in a folder that was prepared: see [`folder`].
    pub async fn start_in(home: TempDir, plan: Plan) -> Self {
        let nats = if plan.apart { Some(NatsServer::start().await) } else { None };
        let port = nats.as_ref().map_or_else(ports::free, NatsServer::port);
        let mut house = Self { plan, parts: BTreeMap::new(), nats, port, home };
        for part in house.plan.parts() {
            house.begin(part);
        }
        house.ready().await;
        house
    }

    /// Waits until all services answer.
    pub async fn ready(&mut self) {
        let mut vpn = self.vpn(["nodes", "list", "-o", "json"]);
        let parts = &mut self.parts;
        eventually("the house is up and its node is heard", READY_WITHIN, async || {
            parts.values_mut().for_each(Process::must_run);
            let nodes = said(&mut vpn)?;
            if nodes.contains("curve_key") { Ok(()) } else { Err(nodes) }
        })
        .await;
    }

    /// The bus's URL.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        &self.plan.node
    }

    /// Its folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the services and the bus keep their files.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What instances share with the agent.
    pub fn run_dir(&self) -> PathBuf {
        self.home.path().join("run")
    }

    /// `vpnd all`.
    pub fn vpnd(&mut self) -> &mut Process {
        self.part("all")
    }

    /// A part of it: `all`, or a service of a house whose parts are apart.
    ///
    /// # Panics
    /// Where it was killed and not begun again.
    pub fn part(&mut self, part: &str) -> &mut Process {
        self.parts.get_mut(part).unwrap_or_else(|| panic!("{part} is no part of this house"))
    }

    /// The bus of a house whose parts are apart.
    pub fn nats_server(&mut self) -> &mut NatsServer {
        self.nats.as_mut().expect("the bus is its own only where parts are apart")
    }

    /// Kills a part as a power cut would.
    pub fn kill(&mut self, part: &str) {
        self.part(part).kill();
    }

    /// Starts a part, again where it was killed; does not wait for it.
    pub fn begin(&mut self, part: &'static str) {
        let process = Process::spawn(&format!("vpnd {part}"), &self.vpnd_command(part));
        self.parts.insert(part, process);
    }

    /// Starts `vpnd all` again, after it was killed.
    pub async fn restart(&mut self) {
        self.kill("all");
        self.begin("all");
        self.ready().await;
    }

    /// `vpn` with these arguments.
    pub fn vpn<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(ours("vpn"));
        command.args(args).env("NATS_URL", self.url()).env_remove("NATS_CONTEXT");
        if let Some(otlp) = &self.plan.otlp {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp);
        }
        command
    }

    /// The `nats` command with these arguments.
    pub fn nats<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(program("nats"));
        command.args(["--server", &self.url()]).args(args).env_remove("NATS_CONTEXT");
        command
    }

    /// A connection to its bus.
    pub async fn bus(&self) -> Bus {
        Bus::connect(&bus::Config::new(self.url(), "flows")).await.unwrap()
    }

    /// Waits until the instance of a server runs.
    pub async fn runs(&self, bus: &Bus, server: &str) -> Instance {
        eventually(&format!("{server} runs"), SERVER_WITHIN, async || {
            let all = ask(bus, ListInstances {}).await?.instances;
            match all.into_iter().find(|instance| instance.server.as_str() == server) {
                Some(instance) if instance.state == InstanceState::Running => Ok(instance),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// The processes of its instances that are children, found by the folder that they share with the agent.
    pub fn children(&self) -> BTreeMap<u32, String> {
        sweep::processes(&self.run_dir())
    }

    /// The containers of its node, running or not: id and state.
    pub fn containers(&self) -> Vec<(String, String)> {
        let filter = format!("label=vpn.node={}", self.plan.node);
        let mut docker = self.docker(["ps", "-a", "--no-trunc", "--filter", &filter]);
        let listed = said(docker.args(["--format", "{{.ID}} {{.State}}"])).unwrap();
        listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, is)| (id.into(), is.into()))
            .collect()
    }

    /// `docker` on the daemon that it uses.
    pub fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut docker = Command::new(program("docker"));
        if let Some(host) = &self.plan.docker_host {
            docker.args(["--host", host]);
        }
        docker.args(args);
        docker
    }

    fn vpnd_command(&self, part: &str) -> Command {
        let plan = &self.plan;
        let mut command = Command::new(ours("vpnd"));
        command.args([part, "--log", &plan.log, "--nats", &self.url()]);
        if let Some(otlp) = &plan.otlp {
            command.args(["--otlp", otlp]);
        }
        let master_key = self.data().join("master.key");
        match part {
            "all" => {
                command.arg("--embedded-bus").arg("--nats-server").arg(program("nats-server"));
            }
            "keys" => {
                // `vpnd all` makes one, a service by itself is given one.
                fs::create_dir_all(self.data()).unwrap();
                seal::MasterKey::load_or_create(&master_key).unwrap();
                command.arg("--master-key").arg(master_key);
            }
            _ => {}
        }
        if matches!(part, "all" | "runtime" | "stats") {
            command.arg("--data").arg(self.data());
        }
        if matches!(part, "all" | "runtime") {
            command
                .args(["--backend", &plan.backend, "--node", &plan.node, "--address", &plan.address])
                .arg("--run-dir")
                .arg(self.run_dir())
                .arg("--xray")
                .arg(program("xray"));
            if let Some(host) = &plan.docker_host {
                command.args(["--docker-host", host]);
            }
        }
        command
    }

    /// Deletes all servers, and waits until their instances are gone.
    pub async fn clear(&self) -> Result<(), String> {
        let bus = Bus::connect(&bus::Config::new(self.url(), "flows")).await.map_err(|e| e.to_string())?;
        for server in ask(&bus, ListServers::default()).await?.servers {
            ask(&bus, DeleteServer { name: server.name }).await?;
        }
        eventually("all instances are gone", SERVER_WITHIN, async || {
            let left = ask(&bus, ListInstances {}).await?.instances;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        Ok(())
    }
}

impl Drop for House {
    /// Instances outlive their agent: they would run for ever.
    fn drop(&mut self) {
        let house = &*self;
        std::thread::scope(|scope| {
            let clear = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(house.clear())
            });
            // One that was killed or whose bus is away has nobody to clear it; the panic says more.
            drop(clear.join());
        });
        self.parts.clear();
        // What is left of one that could not be cleared.
        sweep::kill(self.home());
        if self.plan.backend == "docker" {
            sweep::remove(|| self.docker([]), &self.plan.node);
        }
    }
}

async fn ask<R: Request>(bus: &Bus, request: R) -> Result<R::Reply, String> {
    bus.call(request).await.map_err(|error| error.to_string())
}

/// A folder for a house.
pub fn folder() -> TempDir {
    let home = tempfile::Builder::new().prefix(&sweep::folder()).tempdir().unwrap();
    // Engines are other users, and their run directories are below it.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    home
}
