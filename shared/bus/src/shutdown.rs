//! Tracked tasks and one deadline for all of them.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Asks tasks to end, and waits for them. Clones belong together.
#[derive(Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// One that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
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

    /// Runs `task` tracked; `name` is in the log when it ends.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            tracing::debug!(task = name, "task ended");
        });
    }

    /// Runs `task` until it ends or tasks are asked to end, whichever comes first.
    pub fn spawn_until(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        // What runs for long holds much: on the heap it is moved once, not with every layer around it.
        let task = Box::pin(task);
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
