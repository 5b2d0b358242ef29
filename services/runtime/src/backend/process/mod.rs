//! Supervised child processes, for hosts without a daemon.
//!
//! - [`directory`]  an instance's own directory: what it is, its pid, its exit code, its lock
//! - [`identity`]   which process that was: a pid, and what keeps it from being somebody else's
//! - [`launch`]     the programs that bind a child before it becomes the engine
//! - [`powers`]     what the agent itself may do, and so what it can take away or give
//! - [`cgroup`]     limits of memory and processes, where the host has them
//! - [`ports`]      whether a port is free, and who holds it if not
//! - [`watch`]      noticing the end of children, and of those that an earlier agent started
//! - [`log`]        what instances write, bounded
//! - [`health`]     what `vpn doctor` should know
//!
//! A child outlives the agent: it has a session of its own, and nothing of it hangs on the agent's life. What
//! is known about it is in its directory, and written by the child's own first steps, so that there is no moment
//! in which an agent that dies leaves a child that its successor does not know.
//!
//! What a container has and a child has not: a file system and a network of its own. `vpn doctor` says so.
//! Where systemd runs the agent, the unit needs `KillMode=process`, or it takes the children along.

mod cgroup;
mod directory;
mod health;
pub(crate) mod identity;
mod launch;
mod log;
mod ports;
mod powers;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use contract::{
    Code, ImageRef, NodeName, ServerName,
    runtime::{Check, ContainerEventKind},
};
use tokio::sync::mpsc;
use tokio_util::{sync::DropGuard, task::TaskTracker};

use self::{
    cgroup::Cgroups,
    directory::{Directory, Lock, Made},
    identity::ProcessId,
    launch::{Launch, Programs},
    powers::Powers,
    watch::Watch,
};
use super::{
    Container, ContainerRuntime, ContainerState, Error, Notice, Spec, UNKNOWN_EXIT, instance_name,
    run_dir::{self, Owner},
    words,
};

/// How long a process may take to be gone after SIGKILL. The kernel needs milliseconds, unless a disk hangs.
const KILL: Duration = Duration::from_secs(5);
/// How long a child may take from its first step to being the engine: a handful of program starts.
const LAUNCH: Duration = Duration::from_secs(5);

/// What the process backend must know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose instances.
    pub node: NodeName,
    /// Where instances have their directories: in `instances` below it.
    pub state_dir: PathBuf,
    /// Where programs are looked for, as in `PATH`.
    pub search: Vec<PathBuf>,
}

/// Instances as supervised child processes.
pub struct Process {
    inner: Arc<Inner>,
    /// Ends the tasks, not the children.
    _tasks_end: DropGuard,
}

struct Inner {
    settings: Settings,
    instances: PathBuf,
    programs: Programs,
    powers: Powers,
    cgroups: Cgroups,
    watch: Watch,
}

impl Process {
    /// Adopts what an earlier agent left running. Its tasks are tracked in `tasks`, and end with the backend.
    pub async fn open(settings: Settings, tasks: TaskTracker) -> Result<Self, Error> {
        let instances = settings.state_dir.join("instances");
        let cgroups = Cgroups::find();
        let inner = Inner {
            programs: Programs::find(&settings.search)?,
            powers: Powers::of_this_process()?,
            watch: Watch::new(tasks.clone(), cgroups.clone()),
            cgroups,
            instances,
            settings,
        };
        let inner = Arc::new(inner);
        directory::prepare(&inner.instances).await?;
        let backend = Self { _tasks_end: inner.watch.ending().drop_guard(), inner };
        backend.list().await?;
        let bounded = log::keep_bounded(backend.inner.instances.clone(), backend.inner.watch.ending());
        tasks.spawn(bounded);
        Ok(backend)
    }
}

impl Inner {
    fn directory(&self, server: &ServerName) -> Directory {
        Directory::new(&self.instances, instance_name(&self.settings.node, server))
    }

    fn hand_over(&self, spec: &Spec) -> Result<Owner, Error> {
        let owner = run_dir::runs_as(spec.rights)?;
        run_dir::hand_over(&spec.run_dir, owner)?;
        run_dir::can_reach(&spec.run_dir, owner)?;
        Ok(owner)
    }

    /// `None` where there is no instance.
    async fn look_at(&self, directory: &Directory) -> Result<Option<(Made, ContainerState)>, Error> {
        let Some(made) = directory.made().await? else { return Ok(None) };
        let state = match directory.process().await? {
            None => ContainerState::Created,
            Some(process) if process.is_alive() => {
                self.watch.adopt(directory, &made, process);
                ContainerState::Running { pid: process.pid }
            }
            Some(process) => {
                // Its exit code is written a moment after its end.
                self.watch.ended(&made.server, process).await;
                ContainerState::Exited { code: directory.exit_code().await?.unwrap_or(UNKNOWN_EXIT) }
            }
        };
        Ok(Some((made, state)))
    }

    /// Ends what an instance left behind whose end no agent saw.
    async fn clear(&self, directory: &Directory, state: ContainerState) -> Result<(), Error> {
        if matches!(state, ContainerState::Exited { .. }) && directory.is_locked() {
            self.cgroups.kill(&directory.name);
            directory.kill_holders().await?;
        }
        Ok(())
    }

    /// Ends a process and all that it left in its group; SIGTERM first if there is a grace period.
    async fn end(
        &self,
        directory: &Directory,
        made: &Made,
        process: ProcessId,
        grace: Duration,
    ) -> Result<(), Error> {
        self.watch.adopt(directory, made, process);
        if !grace.is_zero() {
            process.signal(rustix::process::Signal::TERM);
            if tokio::time::timeout(grace, self.watch.ended(&made.server, process)).await.is_ok() {
                return Ok(());
            }
        }
        process.signal(rustix::process::Signal::KILL);
        self.cgroups.kill(&directory.name);
        tokio::time::timeout(KILL, self.watch.ended(&made.server, process)).await.map(drop).map_err(|_| {
            let message =
                format!("process {} of {} is still there {KILL:?} after SIGKILL", process.pid, made.server);
            Error::new(Code::RUNTIME_BACKEND_TIMEOUT, message)
        })
    }
}

fn container((made, state): (Made, ContainerState)) -> Container {
    let Made { server, server_id, revision, traceparent, .. } = made;
    Container { server, server_id, revision, traceparent, state }
}

#[async_trait]
impl ContainerRuntime for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn version(&self) -> Result<String, Error> {
        let path = Path::new("/proc/sys/kernel/osrelease");
        let release =
            tokio::fs::read_to_string(path).await.map_err(|error| Error::file("read", path, &error))?;
        Ok(format!("Linux {}", release.trim()))
    }

    fn inside(&self, run_dir: &Path) -> PathBuf {
        run_dir.to_owned()
    }

    async fn list(&self) -> Result<Vec<Container>, Error> {
        let mut found = Vec::new();
        for directory in directory::all(&self.inner.instances, &self.inner.settings.node).await? {
            found.extend(self.inner.look_at(&directory).await?.map(container));
        }
        found.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(found)
    }

    async fn find(&self, server: &ServerName) -> Result<Option<Container>, Error> {
        Ok(self.inner.look_at(&self.inner.directory(server)).await?.map(container))
    }

    /// Programs are installed, not fetched: `create` says which one is missing.
    async fn ensure_image(&self, _image: &ImageRef) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, spec: &Spec) -> Result<(), Error> {
        let inner = &self.inner;
        inner.powers.suffice_for(spec)?;
        inner.programs.engine(&spec.program)?;
        inner.hand_over(spec)?;
        let directory = inner.directory(&spec.server);
        let made = Made::of(&inner.settings.node, spec);
        if directory.make(&made).await? {
            inner.watch.tell(&made, ContainerEventKind::Created);
            return Ok(());
        }
        match directory.made().await? {
            Some(found) => found.compare(&made),
            None => Err(Error::new(
                Code::RUNTIME_INSTANCE_CONFLICT,
                format!("{} is in the way, and is no instance of ours", directory.path.display()),
            )),
        }
    }

    async fn start(&self, spec: &Spec) -> Result<(), Error> {
        let inner = &self.inner;
        let directory = inner.directory(&spec.server);
        let Some((made, state)) = inner.look_at(&directory).await? else {
            let message = format!("{} was never made, so it cannot start", directory.name);
            return Err(Error::new(Code::RUNTIME_INSTANCE_MISSING, message));
        };
        made.compare(&Made::of(&inner.settings.node, spec))?;
        if let ContainerState::Running { .. } = state {
            return Ok(());
        }
        inner.powers.suffice_for(spec)?;
        let engine = inner.programs.engine(&spec.program)?;
        let owner = inner.hand_over(spec)?;

        inner.clear(&directory, state).await?;
        let lock = match directory.lock(LAUNCH).await? {
            Lock::Ours(lock) => lock,
            // Somebody else started it between our look and now.
            Lock::Held => return Ok(()),
        };
        ports::are_free(&spec.ports)?;
        directory.forget_last_run().await?;
        let groups = inner.cgroups.make(&directory.name, spec.memory, spec.pids).await;
        let launch = Launch { programs: &inner.programs, powers: inner.powers, engine, owner, groups };
        let (child, process) = launch.spawn(spec, &directory, lock)?;
        inner.watch.child(&directory, &made, process, child);
        let ended = inner.watch.ended(&made.server, process);
        if let Err(error) = launch::becomes_engine(process, &inner.programs, ended, LAUNCH).await {
            let words = words::last(&log::tail(&directory.log()).await);
            return Err(Error::new(error.code, format!("{}: {}: {words}", directory.name, error.message)));
        }
        inner.watch.tell(&made, ContainerEventKind::Started);
        Ok(())
    }

    async fn stop(&self, server: &ServerName, grace: Duration) -> Result<(), Error> {
        let directory = self.inner.directory(server);
        match self.inner.look_at(&directory).await? {
            Some((made, ContainerState::Running { .. })) => match directory.process().await? {
                Some(process) => self.inner.end(&directory, &made, process, grace).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    async fn remove(&self, server: &ServerName) -> Result<(), Error> {
        let directory = self.inner.directory(server);
        let Some((made, state)) = self.inner.look_at(&directory).await? else { return Ok(()) };
        if let (ContainerState::Running { .. }, Some(process)) = (state, directory.process().await?) {
            self.inner.end(&directory, &made, process, Duration::ZERO).await?;
        }
        self.inner.clear(&directory, state).await?;
        self.inner.cgroups.remove(&directory.name).await;
        directory.remove().await?;
        self.inner.watch.forget(server);
        self.inner.watch.tell(&made, ContainerEventKind::Removed);
        Ok(())
    }

    async fn last_words(&self, server: &ServerName) -> Result<String, Error> {
        let directory = self.inner.directory(server);
        if directory.made().await?.is_none() {
            let message = format!("{} is not there, so it has written nothing", directory.name);
            return Err(Error::new(Code::RUNTIME_INSTANCE_MISSING, message));
        }
        Ok(words::last(&log::tail(&directory.log()).await))
    }

    fn notices(&self) -> mpsc::Receiver<Notice> {
        self.inner.watch.listen()
    }

    async fn checks(&self) -> Vec<Check> {
        health::checks(&self.inner)
    }
}
