//! The folder that `vpn up` works in, and what it has started from there.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use contract::{Code, Error, NodeName, ServerName};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{commands::files::write_private, context::Context};

/// One `vpn up` or `vpn down` at a time works on it.
pub(super) struct Place {
    folder: PathBuf,
    pub(super) record: Record,
    /// Held until the value goes.
    _lock: File,
}

/// What is remembered from one command to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The `vpnd` that was started.
    pub(super) process: Option<Process>,
    /// The bus that it serves.
    pub(super) url: String,
    /// What runs the servers, where that was said.
    pub(super) backend: Option<String>,
    /// What links carry, where that was said.
    pub(super) address: Option<String>,
    /// The node that it is.
    pub(super) node: Option<NodeName>,
    /// Servers that `vpn down` has stopped, so that `vpn up` starts them again.
    pub(super) stopped: Vec<ServerName>,
}

/// A process, told apart from a later one with the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pid: i32,
    /// In clock ticks since the machine started.
    begun: u64,
}

impl Place {
    /// Makes the folder where it is missing. Fails where another command works on it.
    pub(super) fn open(ctx: &Context, given: Option<&Path>) -> Result<Self, Error> {
        let folder = given.or(ctx.config.data.as_deref()).ok_or_else(|| {
            Error::new(Code::CLI_USAGE, "HOME is not set").with_hint("say where it all lives: --data DIR")
        })?;
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            Error::new(Code::CLI_FILE, format!("{}: {error}", path.display()))
        };
        let folder = std::path::absolute(folder).map_err(|error| failed(folder, &error))?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| failed(&folder, &error))?;
        let path = folder.join("up.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|error| failed(&path, &error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let what = format!("another `vpn up` or `vpn down` works in {} now", folder.display());
                Error::new(Code::CLI_START_FAILED, what).with_hint("wait for it, or give another --data")
            }
            TryLockError::Error(error) => failed(&path, &error),
        })?;
        let path = folder.join("up.json");
        let record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&path, &error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Record::default(),
            Err(error) => return Err(failed(&path, &error)),
        };
        Ok(Self { folder, record, _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where `vpnd` writes its log.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("vpnd.log")
    }

    pub(super) fn save(&self) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| Error::new(Code::INTERNAL, error.to_string()))?;
        write_private(&self.folder.join("up.json"), &bytes, true)
    }

    /// The `vpnd` that was started and still runs.
    pub(super) fn running(&self) -> Option<Process> {
        self.record.process.filter(Process::is_alive)
    }

    /// The bus that a killed `vpnd` has left behind. It runs with a configuration from this folder.
    pub(super) fn left_bus(&self) -> Option<Process> {
        let bus = self.folder.join("bus");
        let pid = fs::read_to_string(bus.join("pid")).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let own = bus.join("nats-server.conf");
        let ours = command.split(|byte| *byte == 0).any(|part| part == own.as_os_str().as_encoded_bytes());
        Process::of(pid).filter(|_| ours)
    }
}

impl Process {
    /// The process with this number; none where it has ended.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything, parentheses included (proc(5)).
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, begun: fields.nth(18)?.parse().ok()? })
    }

    pub(super) fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            // One that has just ended needs no signal.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_only() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Process::of(pid).unwrap();
        assert!(own.is_alive());
        assert!(!Process { begun: own.begun + 1, ..own }.is_alive(), "a later one of that number");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert_eq!(Process::of(ended), None);
    }
}
