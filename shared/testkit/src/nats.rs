//! A private nats-server per test.
//!
//! ```no_run
//! # async fn test() {
//! use testkit::nats::NatsServer;
//!
//! let mut nats = NatsServer::start().await;
//! // connect to nats.url() …
//! nats.kill();
//! nats.restart().await;
//! # }
//! ```

use std::{fmt::Write, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};

use crate::{ports, process::Process, wait::eventually};

/// From the start to the greeting it takes 20 ms on an idle machine; a loaded one gets time.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A nats-server on loopback with a store of its own. Killed when dropped; the store goes with it.
#[derive(Debug)]
pub struct NatsServer {
    options: Options,
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

/// How the server is to be; [`NatsServer::options`] starts with what production has.
#[derive(Debug, Clone)]
#[must_use = "ends with `start`"]
pub struct Options {
    program: &'static str,
    jetstream: bool,
    sync_always: bool,
    max_file_store: Option<u64>,
    config: String,
}

impl Options {
    /// Core NATS only.
    pub fn without_jetstream(mut self) -> Self {
        self.jetstream = false;
        self
    }

    /// A version that the services must refuse: Debian's package.
    pub fn old(mut self) -> Self {
        self.program = "nats-server-old";
        // That version knows durations only.
        self.sync_always = false;
        self
    }

    /// JetStream may store this many bytes; for a disk that is full soon.
    pub fn max_file_store(mut self, bytes: u64) -> Self {
        self.max_file_store = Some(bytes);
        self
    }

    /// More of the server's configuration, such as users and permissions, in its own language.
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = text.into();
        self
    }

    /// Starts it, and returns when it takes connections.
    pub async fn start(self) -> NatsServer {
        let folder = tempfile::Builder::new().prefix("vpn-test-nats-").tempdir().unwrap();
        let mut server = NatsServer { options: self, port: ports::free(), folder, process: None };
        server.restart().await;
        server
    }
}

impl NatsServer {
    /// With JetStream, each write synced, as in production.
    pub async fn start() -> Self {
        Self::options().start().await
    }

    /// The same, to be changed before the start.
    pub fn options() -> Options {
        Options {
            program: "nats-server",
            jetstream: true,
            sync_always: true,
            max_file_store: None,
            config: String::new(),
        }
    }

    /// `nats://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    ///
    /// # Panics
    /// While it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("nats-server runs").pid()
    }

    /// What it has said since its last start.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Where JetStream stores.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// As a power cut would: SIGKILL. The store stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// As an upgrade would: SIGTERM. The store stays.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(10));
        }
    }

    /// Starts it again, where it still runs after a kill, on the same port with the same store.
    pub async fn restart(&mut self) {
        self.kill();
        let config = self.folder.path().join("nats.conf");
        tokio::fs::write(&config, self.config_text()).await.unwrap();
        self.process = Some(Process::start(self.options.program, [&"-c".into(), &config]));

        let (port, name) = (self.port, self.name());
        let process = self.process.as_mut().unwrap();
        eventually("nats-server greets", READY_WITHIN, async || {
            process.must_run();
            let socket = TcpStream::connect(("127.0.0.1", port)).await?;
            let greeting = BufReader::new(socket).lines().next_line().await?.unwrap_or_default();
            // Somebody else's server on this port is not ours.
            if greeting.contains(&name) { Ok(()) } else { Err(std::io::Error::other(greeting)) }
        })
        .await;
    }

    fn name(&self) -> String {
        format!("test-{}-{}", std::process::id(), self.port)
    }

    fn config_text(&self) -> String {
        let mut text = format!("listen: \"127.0.0.1:{}\"\nserver_name: {}\n", self.port, self.name());
        if self.options.jetstream {
            let store = self.store();
            write!(text, "jetstream {{\n  store_dir: {store:?}\n").unwrap();
            if self.options.sync_always {
                text += "  sync_interval: always\n";
            }
            if let Some(bytes) = self.options.max_file_store {
                writeln!(text, "  max_file_store: {bytes}").unwrap();
            }
            text += "}\n";
        }
        text + &self.options.config + "\n"
    }
}
