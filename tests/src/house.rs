//! `vpnd all` with everything it needs, on ports and in folders of its own.

use std::{
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
use testkit::{ports, process::Process, programs::program, wait::eventually};

use crate::programs::{ours, said};

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
}

impl Plan {
    /// One on this backend, whose node has a name of its own.
    pub fn on(backend: &str) -> Self {
        let node = format!("test-{}-{}", std::process::id(), ports::free());
        Self { backend: backend.to_owned(), node, otlp: None }
    }
}

/// A running house. Dropped, it takes its servers down and ends.
pub struct House {
    plan: Plan,
    vpnd: Process,
    port: u16,
    home: TempDir,
}

impl House {
    /// Starts it and waits until all services answer.
    pub async fn start(plan: Plan) -> Self {
        // Engines are other users, and their run directories are below it.
        let home = tempfile::Builder::new().prefix("vpn-house-").tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let port = ports::free();
        let vpnd = Process::spawn("vpnd", &vpnd(&plan, port, home.path()));
        let mut house = Self { plan, vpnd, port, home };
        house.ready().await;
        house
    }

    /// Waits until all services answer.
    pub async fn ready(&mut self) {
        let mut vpn = self.vpn(["nodes", "list", "-o", "json"]);
        let vpnd = &mut self.vpnd;
        eventually("the house is up and its node is heard", READY_WITHIN, async || {
            vpnd.must_run();
            let nodes = said(&mut vpn)?;
            if nodes.contains("curve_key") { Ok(()) } else { Err(nodes) }
        })
        .await;
    }

    /// The bus's URL.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the services and the bus keep their files.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// `vpnd all`.
    pub fn vpnd(&mut self) -> &mut Process {
        &mut self.vpnd
    }

    /// Starts `vpnd all` again, after it was killed.
    pub async fn restart(&mut self) {
        self.vpnd.kill();
        self.vpnd = Process::spawn("vpnd", &vpnd(&self.plan, self.port, self.home.path()));
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
    }
}

async fn ask<R: Request>(bus: &Bus, request: R) -> Result<R::Reply, String> {
    bus.call(request).await.map_err(|error| error.to_string())
}

fn vpnd(plan: &Plan, port: u16, home: &Path) -> Command {
    let mut command = Command::new(ours("vpnd"));
    let url = format!("nats://127.0.0.1:{port}");
    command
        .args(["all", "--embedded-bus", "--log", "info", "--nats", &url])
        .args(["--backend", &plan.backend, "--node", &plan.node, "--address", "127.0.0.1"])
        .arg("--data")
        .arg(home.join("data"))
        .arg("--run-dir")
        .arg(home.join("run"))
        .arg("--nats-server")
        .arg(program("nats-server"))
        .arg("--xray")
        .arg(program("xray"));
    if let Some(otlp) = &plan.otlp {
        command.args(["--otlp", otlp]);
    }
    command
}
