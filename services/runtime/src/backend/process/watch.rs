//! Noticing the end of children, and of processes that an earlier agent started.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{ServerName, runtime::ContainerEventKind};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Child,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Notice, UNKNOWN_EXIT,
    cgroup::Cgroups,
    directory::{Directory, Made},
    identity::ProcessId,
};
use crate::backend::outbox::Outbox;

/// How often a process is looked at where the kernel gives no descriptors for processes (before Linux 5.3, or
/// forbidden by a container's seccomp profile).
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Who is watched, and who is told.
pub(super) struct Watch {
    shared: Arc<Shared>,
    cgroups: Cgroups,
    tasks: TaskTracker,
    ending: CancellationToken,
}

#[derive(Default)]
struct Shared {
    /// One for each instance: its last run, over or not.
    watched: Mutex<HashMap<ServerName, Watched>>,
    outboxes: Mutex<Vec<Outbox>>,
}

struct Watched {
    process: ProcessId,
    /// Its exit code, once it is on disk.
    ended: watch::Receiver<Option<i32>>,
}

impl Watch {
    pub(super) fn new(tasks: TaskTracker, cgroups: Cgroups) -> Self {
        Self { shared: Arc::default(), cgroups, tasks, ending: CancellationToken::new() }
    }

    /// What ends the tasks, with the backend.
    pub(super) fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Watches our own child.
    pub(super) fn child(&self, directory: &Directory, made: &Made, process: ProcessId, mut child: Child) {
        self.watch(directory, made, process, async move {
            match child.wait().await {
                Ok(status) => {
                    use std::os::unix::process::ExitStatusExt as _;
                    status
                        .code()
                        .or_else(|| status.signal().map(|signal| 128 + signal))
                        .unwrap_or(UNKNOWN_EXIT)
                }
                Err(_) => UNKNOWN_EXIT,
            }
        });
    }

    /// Watches somebody else's child, unless it is watched already. Only its parent learns its exit code.
    pub(super) fn adopt(&self, directory: &Directory, made: &Made, process: ProcessId) {
        if lock(&self.shared.watched).get(&made.server).is_some_and(|watched| watched.process == process) {
            // Or was watched to its end.
            return;
        }
        tracing::info!(instance = directory.name, pid = process.pid, "adopted");
        self.watch(directory, made, process, async move {
            gone(process).await;
            UNKNOWN_EXIT
        });
    }

    /// The code of that process once it has ended and that is on disk; at once if nobody watches it.
    pub(super) fn ended(
        &self,
        server: &ServerName,
        process: ProcessId,
    ) -> impl Future<Output = Option<i32>> + use<> {
        let watched = lock(&self.shared.watched);
        let ended = watched.get(server).filter(|watched| watched.process == process);
        let ended = ended.map(|watched| watched.ended.clone());
        async move {
            let mut ended = ended?;
            let code = ended.wait_for(Option::is_some).await;
            code.ok().and_then(|code| *code)
        }
    }

    /// Tells whoever listens.
    pub(super) fn tell(&self, made: &Made, kind: ContainerEventKind) {
        self.shared.tell(made, kind);
    }

    /// The instance is gone.
    pub(super) fn forget(&self, server: &ServerName) {
        lock(&self.shared.watched).remove(server);
    }

    /// A new listener.
    pub(super) fn listen(&self) -> mpsc::Receiver<Notice> {
        let (outbox, receiver) = Outbox::new();
        let mut outboxes = lock(&self.shared.outboxes);
        outboxes.retain(|outbox| !outbox.is_closed());
        outboxes.push(outbox);
        receiver
    }

    fn watch(
        &self,
        directory: &Directory,
        made: &Made,
        process: ProcessId,
        end: impl Future<Output = i32> + Send + 'static,
    ) {
        let (say_ended, ended) = watch::channel(None);
        lock(&self.shared.watched).insert(made.server.clone(), Watched { process, ended });
        let (directory, made, cgroups) = (directory.clone(), made.clone(), self.cgroups.clone());
        let (shared, ending) = (Arc::clone(&self.shared), self.ending.clone());
        self.tasks.spawn(async move {
            let code = tokio::select! {
                () = ending.cancelled() => return,
                code = end => code,
            };
            // What ends with a container's first process must end with an instance's.
            process.kill_leftovers();
            cgroups.kill(&directory.name);
            if code != UNKNOWN_EXIT
                && let Err(error) = directory.write_exit_code(code).await
            {
                tracing::warn!(instance = directory.name, code, %error, "ended, but the code cannot be kept");
            }
            say_ended.send_replace(Some(code));
            shared.tell(&made, ContainerEventKind::Exited(code));
        });
    }
}

impl Shared {
    fn tell(&self, made: &Made, kind: ContainerEventKind) {
        let mut outboxes = lock(&self.outboxes);
        outboxes.retain(|outbox| !outbox.is_closed());
        for outbox in outboxes.iter_mut() {
            let (server, traceparent) = (made.server.clone(), made.traceparent.clone());
            outbox.send(Notice::Container { server, kind, traceparent });
        }
    }
}

/// Waits for the end of a process that need not be our child.
async fn gone(process: ProcessId) {
    let descriptor = process.descriptor().and_then(readable_at_the_end);
    // Only now is it sure that the descriptor is that of this process, and not of a later one with its number.
    if !process.is_alive() {
        return;
    }
    if let Some(descriptor) = descriptor
        && descriptor.readable().await.is_ok()
    {
        return;
    }
    while process.is_alive() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// tokio deprecated this constructor, as a type of the caller's could close its descriptor or change it for another;
/// its replacement is `unsafe`. An [`OwnedFd`] does neither.
#[allow(deprecated)]
fn readable_at_the_end(descriptor: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
