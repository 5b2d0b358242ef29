//! The nats-server that `vpnd all --embedded-bus` brings along: on loopback, every write on disk before it is
//! acknowledged. It is started again when it dies and after its disk was full, and taken over when an earlier `vpnd`
//! was killed.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use bus::Shutdown;
use nix::{
    sys::{
        signal::{Signal, kill},
        statvfs::statvfs,
    },
    unistd::Pid,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::config::All;

/// It answers within 50 ms; a machine under load or a large store take longer.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at it while somebody waits for it to come up or to end.
const WAIT_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at one that runs: at its disk, and at whether it lives where it is not our child.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After it died: at once would spin if it cannot start.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// Its log begins a new file after so many bytes, and so many files are kept: months of what it says by itself, and an
/// hour of something that goes wrong all the time.
const LOG_BYTES: u64 = 8 * 1024 * 1024;
const LOG_FILES: u8 = 3;
/// As much of what it said is read to tell why it ended.
const LOOK_BYTES: i64 = 4 * 1024;

/// A disk with less than this, in bytes, is full: a write may have failed.
const FULL: u64 = 64 * 1024;
/// A disk with this has room again: with less it would be full again at once.
const ROOM: u64 = 4 * 1024 * 1024;

/// The nats-server that runs for this process.
pub(crate) struct Embedded {
    port: u16,
    pid: Arc<Mutex<Option<i32>>>,
}

impl Embedded {
    /// Starts it, or takes over the one that runs on the same data.
    pub(crate) async fn start(url: &str, all: &All, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let port = loopback_port(url)?;
        let folder = all.data.join("bus");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("make {}", folder.display()))?;
        let place = Place { program: program(all.nats_server.as_deref())?, folder, port };
        place.configure()?;
        let pid = Arc::new(Mutex::new(None));
        if let Some(running) = place.running() {
            tracing::info!(pid = running, "the nats-server of an earlier vpnd goes on");
            *pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
            place.answers(running).await?;
            shutdown.spawn_until("embedded bus", place.keep(None, pid.clone()));
        } else {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                bail!(
                    "port {port} belongs to another program; give another with --nats nats://127.0.0.1:PORT"
                );
            }
            let (child, started) = place.spawn()?;
            *pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
            place.answers(started).await?;
            shutdown.spawn_until("embedded bus", place.keep(Some(child), pid.clone()));
        }
        Ok(Self { port, pid })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Stops it when the services are done with it.
    pub(crate) async fn stop(self) {
        let pid = *self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let deadline = Instant::now() + START_WITHIN;
            while alive(pid) && Instant::now() < deadline {
                sleep(WAIT_EVERY).await;
            }
        }
    }
}

struct Place {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl Place {
    fn configure(&self) -> anyhow::Result<()> {
        let text = format!(
            "listen: \"127.0.0.1:{}\"\nserver_name: \"vpn-embedded\"\npid_file: {:?}\n\
             jetstream {{ store_dir: {:?}, sync_interval: always }}\n\
             log_file: {:?}\nlogfile_size_limit: {LOG_BYTES}\nlogfile_max_num: {LOG_FILES}\n",
            self.port,
            self.folder.join("pid"),
            self.folder.join("jetstream"),
            self.log(),
        );
        let path = self.folder.join("nats-server.conf");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// The process of an earlier start, if it is that program still.
    fn running(&self) -> Option<i32> {
        let pid: i32 = fs::read_to_string(self.folder.join("pid")).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let own = self.folder.join("nats-server.conf");
        let ours = command.split(|byte| *byte == 0).any(|part| part == own.as_os_str().as_encoded_bytes());
        (ours && alive(pid)).then_some(pid)
    }

    fn spawn(&self) -> anyhow::Result<(Child, i32)> {
        let complaints = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(self.complaints())
            .context("open what nats-server complains into")?;
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(self.folder.join("nats-server.conf"))
            .stdin(Stdio::null())
            .stdout(complaints.try_clone()?)
            .stderr(complaints)
            // A signal to our terminal is for us: the bus ends after the services.
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!("start {}; install nats-server or name it with --nats-server", self.program.display())
            })?;
        let pid = child.id().context("nats-server ended at once")?;
        Ok((child, i32::try_from(pid)?))
    }

    async fn answers(&self, pid: i32) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if !alive(pid) || Instant::now() > deadline {
                bail!("nats-server does not come up: {} (log: {})", self.last_words(), self.log().display());
            }
            sleep(WAIT_EVERY).await;
        }
        Ok(())
    }

    /// Why it ended, as far as it said so: what it could not write to its log, else the end of that.
    fn last_words(&self) -> String {
        let complaints = read(&self.complaints(), SeekFrom::Start(0)).unwrap_or_default();
        // A panic begins with what it is about; what follows is where.
        let first = complaints.lines().find(|line| !line.trim().is_empty());
        let log = read(&self.log(), SeekFrom::End(-LOOK_BYTES)).unwrap_or_default();
        first.or_else(|| log.lines().last()).unwrap_or("it said nothing").to_owned()
    }

    /// Starts it again whenever it has died, and after its disk was full: nats-server (2.15) stores nothing any more
    /// once a write has failed, until it is started again.
    async fn keep(self, mut child: Option<Child>, pid: Arc<Mutex<Option<i32>>>) {
        let mut full = false;
        loop {
            let ended = match &mut child {
                Some(child) => timeout(LOOK_EVERY, child.wait()).await.is_ok(),
                // One that was taken over is not ours to wait for.
                None => {
                    sleep(LOOK_EVERY).await;
                    false
                }
            };
            let running = *pid.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(running) = running.filter(|pid| !ended && alive(*pid)) {
                let free = self.free();
                if !full && free < FULL {
                    full = true;
                    tracing::error!("the disk of the bus is full: nothing is stored until there is room");
                } else if full && free > ROOM {
                    full = false;
                    tracing::warn!(
                        "the disk of the bus has room again; nats-server is started anew to see it"
                    );
                    let _ = kill(Pid::from_raw(running), Signal::SIGTERM);
                }
                continue;
            }
            tracing::error!(said = self.last_words(), "nats-server ended and is started again");
            match self.spawn() {
                Ok((started, own)) => {
                    *pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
                    child = Some(started);
                }
                Err(error) => {
                    tracing::error!("{error:#}");
                    child = None;
                }
            }
            sleep(RESTART_AFTER).await;
        }
    }

    /// What its disk can still take, in bytes; where that cannot be said, the disk is taken to be well.
    fn free(&self) -> u64 {
        statvfs(&self.folder)
            .map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }

    /// What does not go to its log: a configuration that it does not take, a panic. Begins anew with each start.
    fn complaints(&self) -> PathBuf {
        self.folder.join("nats-server.err")
    }
}

/// A piece of a text, from there on; all of it where it is shorter.
fn read(path: &Path, from: SeekFrom) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    if file.metadata()?.len() > LOOK_BYTES.unsigned_abs() {
        file.seek(from)?;
    }
    let mut bytes = Vec::new();
    file.take(LOOK_BYTES.unsigned_abs()).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A process that ended but was not reaped yet is not alive.
fn alive(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let letter = state.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    letter.is_some_and(|letter| letter != 'Z' && letter != 'X')
}

fn loopback_port(url: &str) -> anyhow::Result<u16> {
    let address = url.strip_prefix("nats://").unwrap_or(url);
    match address.rsplit_once(':') {
        Some(("127.0.0.1" | "localhost", port)) => {
            Ok(port.parse().with_context(|| format!("the port in {url}"))?)
        }
        _ => bail!("an embedded bus listens on loopback: give --nats nats://127.0.0.1:PORT, not {url}"),
    }
}

/// The nats-server program: the given one, else the one next to us, else the one on the PATH.
fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("nats-server")));
    Ok(own.filter(|path| path.exists()).unwrap_or_else(|| "nats-server".into()))
}
