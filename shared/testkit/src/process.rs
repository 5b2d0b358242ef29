//! A child that ends with its value, and with the test process at the latest.
//!
//! Dropping kills, also while a test panics. Against a test process that is itself killed, the kernel is asked to
//! kill the child when its parent dies (`setpriv --pdeathsig`). To the kernel the parent is the *thread* that started
//! the child; so all children are started by one thread that lives as long as the process.

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::NamedTempFile;

use crate::programs::program;

/// A running program. Dropping kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: NamedTempFile,
}

impl Process {
    /// Starts a pinned program with what it says going to a file (see [`Process::log`]).
    pub fn start<A: AsRef<std::ffi::OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(program(name));
        command.args(args);
        Self::spawn(name, &command)
    }

    /// The same for a command with its own surroundings: program, arguments, folder and environment are taken over.
    pub fn spawn(name: &str, command: &Command) -> Self {
        let log = NamedTempFile::new().unwrap();
        let mut bound = Command::new(program("setpriv"));
        bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(key, value),
                None => bound.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            bound.current_dir(folder);
        }
        // Appending, so that neither writes over the other.
        let said = File::options().append(true).open(log.path()).unwrap();
        bound.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let child =
            spawn_on_lasting_thread(bound).unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// The process id: the program's own, as `setpriv` is replaced by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far, to stdout and stderr.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        let mut file = File::open(self.log.path()).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The file that [`Process::log`] reads.
    pub fn log_path(&self) -> PathBuf {
        self.log.path().to_owned()
    }

    /// How it ended, or none while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Panics with its last words where it has ended: for use while waiting for it to be ready.
    pub fn must_run(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended ({status}); its last words:\n{}", self.name, tail(&self.log()));
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        // Fails for one that has ended by itself, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        kill(pid, signal).unwrap_or_else(|error| panic!("{} cannot be sent {signal}: {error}", self.name));
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// Where it has not ended by the deadline.
    pub fn stop(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if Instant::now() > deadline {
                let words = tail(&self.log());
                self.kill();
                panic!("{} has not ended {within:?} after SIGTERM; its last words:\n{words}", self.name);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            // The test harness shows it with the failed test.
            #[allow(clippy::print_stderr, reason = "a failed test's reason is often here")]
            {
                eprintln!("--- {} (pid {}) said:\n{}", self.name, self.pid(), tail(&self.log()));
            }
        }
    }
}

/// The last lines.
pub fn tail(log: &str) -> String {
    const LINES: usize = 30;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawn_on_lasting_thread(command: Command) -> std::io::Result<Child> {
    static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = mpsc::channel();
    STARTER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).unwrap();
    answered.recv().unwrap()
}
