//! Networks of a test's own: network namespaces, and cables between them.
//!
//! ```no_run
//! # async fn test() {
//! use testkit::{netns::Namespace, sites::Target};
//!
//! let (here, there) = (Namespace::new(), Namespace::new());
//! let address = here.connect(Some(&there)).far.into();
//! let target = there.host(move || Target::start_on(address)).await;
//! assert!(here.dial(target.address(), std::time::Duration::from_secs(1)).await.is_ok());
//! # }
//! ```
//!
//! They take root. All of it is gone when its value is dropped; what a test process leaves that was itself killed is
//! removed by the next.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    path::Path,
    process::Command,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{net::TcpStream, sync::oneshot};

use crate::programs::program;

const PREFIX: &str = "vpn-test";
/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// Cables take their addresses from the range for benchmarks of networks (RFC 2544), four each.
const CABLES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const ALL_CABLES: u32 = 1 << 15;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with a name, as `ip netns` makes them. Its loopback is up. Removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Both ends of a cable.
#[derive(Debug, Clone)]
pub struct Cable {
    /// Our end's address and interface.
    pub near: Ipv4Addr,
    /// Our end.
    pub near_interface: String,
    /// The other end's address.
    pub far: Ipv4Addr,
    /// The other end.
    pub far_interface: String,
}

impl Namespace {
    /// A new one.
    ///
    /// # Panics
    /// Where it can't be made: without root.
    #[allow(clippy::new_without_default, reason = "a namespace is no default of anything")]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program that will run in it, under the same process id.
    pub fn command(&self, path: &Path) -> Command {
        let mut command = Command::new(program("ip"));
        command.args(["netns", "exec", &self.name]).arg(path);
        command
    }

    /// Runs a command line in it, split at spaces, and returns what it wrote.
    ///
    /// # Panics
    /// Where it fails, with what it said.
    pub fn run(&self, line: &str) -> String {
        self.try_run(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The same for one that may fail.
    pub fn try_run(&self, line: &str) -> Result<String, String> {
        let mut words = line.split(' ');
        let mut command = self.command(&program(words.next().unwrap_or_default()));
        let output = command.args(words).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// `ip` in it, with these words.
    pub fn ip(&self, words: &str) -> String {
        self.run(&format!("ip {words}"))
    }

    /// Lays a cable from here to another namespace, or to the one that the test is in. Its ends have addresses of one
    /// small network; nothing else is routed.
    pub fn connect(&self, other: Option<&Self>) -> Cable {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        // Another process may have the same number; the range is large, and the ends in namespaces meet nobody.
        let block = CABLES.to_bits() + (pid.wrapping_mul(61).wrapping_add(number) % ALL_CABLES) * 4;
        let (near, far) = (Ipv4Addr::from_bits(block + 1), Ipv4Addr::from_bits(block + 2));
        let (near_interface, far_interface) = (format!("v{pid}-{number}a"), format!("v{pid}-{number}b"));
        ip(&[
            "link",
            "add",
            &near_interface,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            &far_interface,
        ]);
        self.ip(&format!("addr add {near}/30 dev {near_interface}"));
        self.ip(&format!("link set {near_interface} up"));
        let far_end = |words: &str| match other {
            Some(other) => drop(other.ip(words)),
            None => ip(&words.split(' ').collect::<Vec<_>>()),
        };
        if let Some(other) = other {
            ip(&["link", "set", &far_interface, "netns", &other.name]);
        }
        far_end(&format!("addr add {far}/30 dev {far_interface}"));
        far_end(&format!("link set {far_interface} up"));
        Cable { near, near_interface, far, far_interface }
    }

    /// A connection from it.
    pub async fn dial(&self, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
        let (answer, answered) = oneshot::channel();
        let entrance = self.entrance();
        thread::spawn(move || {
            enter(&entrance);
            let _ = answer.send(std::net::TcpStream::connect_timeout(&to, within));
        });
        let stream = answered.await.unwrap()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        TcpStream::from_std(stream)
    }

    /// Starts something in it that lives until it is dropped.
    pub async fn host<T, F>(&self, start: impl FnOnce() -> F + Send + 'static) -> Resident<T>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T>,
    {
        let (started, answer) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let entrance = self.entrance();
        let thread = thread::spawn(move || {
            enter(&entrance);
            // Its threads are in the namespace as well: they are made from here.
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let value = Arc::new(start().await);
                let _ = started.send(Arc::clone(&value));
                let _ = stopped.await;
            });
        });
        let value = answer.await.expect("what was to live in the namespace has started");
        Resident { value: Some(value), stop: Some(stop), thread: Some(thread) }
    }

    fn entrance(&self) -> File {
        File::open(Path::new(NAMES).join(&self.name)).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new(program("ip")).args(["netns", "del", &self.name]).output();
    }
}

/// Something that lives in a namespace. Ends when dropped.
#[derive(Debug)]
pub struct Resident<T> {
    value: Option<Arc<T>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<T> Deref for Resident<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Resident<T> {
    fn drop(&mut self) {
        // First here, so that its last owner is the thread, whose runtime it may need to end.
        self.value.take();
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn enter(entrance: &File) {
    setns(entrance, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
}

fn ip(words: &[&str]) {
    let output = Command::new(program("ip")).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said} (namespaces take root)", words.join(" "));
}

/// Removes the namespaces of test processes that are no more.
fn sweep() {
    for name in fs::read_dir(NAMES).into_iter().flatten().flatten().map(|entry| entry.file_name()) {
        let name = name.to_string_lossy();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.trim_start_matches('-').split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new(program("ip")).args(["netns", "del", &name]).output();
        }
    }
}
