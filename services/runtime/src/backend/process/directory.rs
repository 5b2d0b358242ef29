//! An instance's own directory, `instances/<name>/`:
//!
//! | file | what |
//! |---|---|
//! | `spec.json` | what it is; there from the first moment on |
//! | `pid`       | which process, written by that process before it becomes the engine |
//! | `exit`      | its exit code, if somebody saw it |
//! | `lock`      | locked for as long as the process lives: it has the file open as its stdin |
//! | `log`       | what it writes; `log.1` is what it wrote before |
//!
//! The lock is what makes a second start impossible: the starter takes it and gives it to the child, so there is
//! no moment at which an agent could die and leave a child without it.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use contract::{Code, NodeName, ServerName, fleet::ServerId};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Error, Spec,
    identity::{self, ProcessId},
    instance_name,
};

/// Directories on their way in and out have such names, and are nobody's after a crash.
const COMING: &str = ".new-";
const GOING: &str = ".gone-";
/// How often a file is looked at that is about to be written.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a child that holds the lock may take to say who it is, where nobody insists.
const SAYS_WHO: Duration = Duration::from_secs(2);

/// What `spec.json` holds: the labels of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    node: NodeName,
    pub(super) server: ServerName,
    pub(super) server_id: ServerId,
    pub(super) revision: String,
    pub(super) traceparent: Option<String>,
}

impl Made {
    pub(super) fn of(node: &NodeName, spec: &Spec) -> Self {
        Self {
            node: node.clone(),
            server: spec.server.clone(),
            server_id: spec.server_id,
            revision: spec.revision.clone(),
            traceparent: spec.traceparent.clone(),
        }
    }

    /// Whether what is there will do for what is wanted.
    pub(super) fn compare(&self, wanted: &Self) -> Result<(), Error> {
        let conflict = |why: String| Err(Error::new(Code::RUNTIME_INSTANCE_CONFLICT, why));
        let name = instance_name(&self.node, &self.server);
        if self.server_id != wanted.server_id {
            conflict(format!("{name} was made for an earlier server of that name"))
        } else if self.revision != wanted.revision {
            conflict(format!("{name} is of revision {}, not {}", self.revision, wanted.revision))
        } else {
            Ok(())
        }
    }
}

/// Whose lock it is.
pub(super) enum Lock {
    /// Ours to give to the child.
    Ours(File),
    /// That of a child which runs.
    Held,
}

/// The directory of one instance, there or not.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) name: String,
}

impl Directory {
    pub(super) fn new(instances: &Path, name: String) -> Self {
        Self { path: instances.join(&name), name }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// What it is; `None` where there is no instance.
    pub(super) async fn made(&self) -> Result<Option<Made>, Error> {
        let path = self.path.join("spec.json");
        let Some(json) = read(&path).await? else { return Ok(None) };
        match serde_json::from_str(&json) {
            Ok(made) => Ok(Some(made)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no spec of ours: left alone");
                Ok(None)
            }
        }
    }

    /// Makes it, whole or not at all. Says whether it was made; if not, something has its name.
    pub(super) async fn make(&self, made: &Made) -> Result<bool, Error> {
        let json = serde_json::to_vec_pretty(made)
            .map_err(|error| Error::new(Code::INTERNAL, format!("a spec that cannot be written: {error}")))?;
        let (path, name) = (self.path.clone(), self.name.clone());
        let coming = path.with_file_name(format!("{COMING}{name}-{}", uuid::Uuid::new_v4()));
        blocking(move || {
            let build = || {
                DirBuilder::new().mode(0o700).create(&coming)?;
                File::create_new(coming.join("lock"))?;
                let mut spec = File::create_new(coming.join("spec.json"))?;
                spec.write_all(&json)?;
                spec.sync_all()?;
                fs::rename(&coming, &path)
            };
            let Err(error) = build() else { return Ok(true) };
            let _ = fs::remove_dir_all(&coming);
            match error.kind() {
                ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                    Ok(false)
                }
                _ => Err(Error::file("make", &path, &error)),
            }
        })
        .await
    }

    /// Removes it: at once as an instance, then its files.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        let path = self.path.clone();
        let going = path.with_file_name(format!("{GOING}{}", uuid::Uuid::new_v4()));
        blocking(move || match fs::rename(&path, &going).and_then(|()| fs::remove_dir_all(&going)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", &path, &error)),
            _ => Ok(()),
        })
        .await
    }

    /// Which process it runs, or ran at last; `None` where it was never started.
    pub(super) async fn process(&self) -> Result<Option<ProcessId>, Error> {
        let deadline = Instant::now() + SAYS_WHO;
        loop {
            if let Some(process) = self.written_process().await? {
                return Ok(Some(process));
            }
            // An agent died right after it started a child: that one holds the lock, and will say who it is.
            if !self.is_locked() || Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn written_process(&self) -> Result<Option<ProcessId>, Error> {
        let written = read(&self.pid_file()).await?;
        Ok(written.and_then(|written| ProcessId::parse(&written, &identity::boot())))
    }

    /// The code it ended with, if somebody saw it.
    pub(super) async fn exit_code(&self) -> Result<Option<i32>, Error> {
        let written = read(&self.path.join("exit")).await?;
        Ok(written.and_then(|code| code.trim().parse().ok()))
    }

    /// Called by the one who saw the end.
    pub(super) async fn write_exit_code(&self, code: i32) -> Result<(), Error> {
        let path = self.path.join("exit");
        tokio::fs::write(&path, format!("{code}\n"))
            .await
            .map_err(|error| Error::file("write", &path, &error))
    }

    /// Before a new start.
    pub(super) async fn forget_last_run(&self) -> Result<(), Error> {
        for path in [self.path.join("exit"), self.pid_file()] {
            match tokio::fs::remove_file(&path).await {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::file("remove", &path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the lock, or finds out that a living child has it.
    pub(super) async fn lock(&self, within: Duration) -> Result<Lock, Error> {
        let deadline = Instant::now() + within;
        loop {
            match self.try_lock()? {
                Some(lock) => return Ok(Lock::Ours(lock)),
                None if self.written_process().await?.is_some_and(ProcessId::is_alive) => {
                    return Ok(Lock::Held);
                }
                None if Instant::now() >= deadline => {
                    let message = format!("processes of an earlier run of {} are still there", self.name);
                    return Err(Error::new(Code::RUNTIME_BACKEND_TIMEOUT, message));
                }
                // It is being looked at by somebody, or its child has not said who it is yet.
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    fn try_lock(&self) -> Result<Option<File>, Error> {
        let path = self.path.join("lock");
        let file = File::open(&path).map_err(|error| Error::file("open", &path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::file("lock", &path, &error)),
        }
    }

    /// Kills whoever has the lock: what a first process that is gone left behind. They are known by the lock
    /// itself, as their stdin; the number of a group that was theirs may be a stranger's by now.
    pub(super) async fn kill_holders(&self) -> Result<(), Error> {
        let lock = self.path.join("lock");
        blocking(move || {
            let lock = fs::canonicalize(&lock).map_err(|error| Error::file("look at", &lock, &error))?;
            for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let pid = process.file_name().to_str().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
                let stdin = fs::read_link(process.path().join("fd/0"));
                if let (Some(pid), Ok(stdin)) = (pid, stdin)
                    && stdin == lock
                {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            Ok(())
        })
        .await
    }

    /// Whether a process of it lives, the first or another.
    pub(super) fn is_locked(&self) -> bool {
        let lock = File::open(self.path.join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

/// Makes the place for the directories, and clears away what a crash left half made or half removed.
pub(super) async fn prepare(instances: &Path) -> Result<(), Error> {
    let instances = instances.to_owned();
    blocking(move || {
        let prepare = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&instances)?;
            for entry in fs::read_dir(&instances)? {
                let entry = entry?;
                let name = entry.file_name();
                if [COMING, GOING].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                    fs::remove_dir_all(entry.path())?;
                }
            }
            io::Result::Ok(())
        };
        prepare().map_err(|error| Error::file("prepare", &instances, &error))
    })
    .await
}

/// The directories of all instances of the node.
pub(super) async fn all(instances: &Path, node: &NodeName) -> Result<Vec<Directory>, Error> {
    let prefix = format!("vpn.{node}.");
    let instances = instances.to_owned();
    blocking(move || {
        let names =
            || fs::read_dir(&instances)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>();
        let names: Vec<OsString> = names().map_err(|error| Error::file("list", &instances, &error))?;
        let names = names.iter().filter_map(|name| name.to_str()).filter(|name| name.starts_with(&prefix));
        Ok(names.map(|name| Directory::new(&instances, name.to_owned())).collect())
    })
    .await
}

async fn read(path: &Path) -> Result<Option<String>, Error> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::file("read", path, &error)),
    }
}

/// Work on files that may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(Code::INTERNAL, format!("work on files did not end: {error}")))
    })
}
