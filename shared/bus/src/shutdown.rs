//! Tracked tasks, and one deadline for all of them. A task that panics ends all: a service that lost one of its parts
//! looks alive and is not, and its supervisor starts it anew.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Asks tasks to end, and waits for them. Clones belong together.
#[derive(Clone)]
pub struct Shutdown {
    token: CancellationToken,
    /// Of the whole that this is a part of; its own where it is the whole.
    whole: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// One that nobody has asked for yet.
    pub fn new() -> Self {
        let token = CancellationToken::new();
        Self { whole: token.clone(), token, tasks: TaskTracker::new(), failed: Arc::default() }
    }

    /// A part that can be asked to end alone, and ends with the whole. Its tasks are the whole's: only the whole waits
    /// for them.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { token: self.token.child_token(), ..self.clone() }
    }

    /// Asks every task to end.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether tasks are asked to end.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when tasks are asked to end.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Whether a task panicked: who runs the process ends it as failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Runs `task` tracked; `name` is in the log when it ends. Where it panics, everything is asked to end.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(name, Box::pin(task));
    }

    /// The code around a task stands in the program once, not once for each kind of task.
    fn spawn_boxed(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let (failed, whole) = (self.failed.clone(), self.whole.clone());
        self.tasks.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) => tracing::debug!(task = name, "task ended"),
                Err(panic) => {
                    let panic = panic_text(panic.as_ref());
                    tracing::error!(
                        task = name,
                        panic,
                        "a task panicked; everything ends, to be started anew"
                    );
                    failed.store(true, Ordering::SeqCst);
                    whole.cancel();
                }
            }
        });
    }

    /// Runs `task` until it ends or tasks are asked to end, whichever comes first.
    pub fn spawn_until(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until_boxed(name, Box::pin(task));
    }

    fn spawn_until_boxed(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let token = self.token.clone();
        self.spawn(name, async move {
            token.run_until_cancelled(task).await;
        });
    }

    /// Asks every task to end and waits for them, at most `within`; says whether all have ended.
    pub async fn finish(&self, within: Duration) -> bool {
        self.begin();
        self.tasks.close();
        let ended = tokio::time::timeout(within, self.tasks.wait()).await.is_ok();
        if !ended {
            tracing::warn!(
                tasks = self.tasks.len(),
                "tasks did not end before the deadline and are abandoned"
            );
        }
        ended
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
