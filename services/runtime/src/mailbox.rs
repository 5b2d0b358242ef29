//! What the agent tells the worker of an instance. Bounded by what there is, not by how often it changes: later
//! news of the same user or target replaces earlier news.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bus::origin::Trace;
use contract::UserName;
use tokio::sync::Notify;

use crate::engine::{EngineServer, EngineUser};

/// Causes that are remembered of one piece of news.
const CAUSES_MAX: usize = 32;

/// The users of one protocol who may connect.
pub type Roster = Arc<Mutex<BTreeMap<UserName, EngineUser>>>;

/// What a worker has to bring about.
#[derive(Clone)]
pub struct Target {
    /// The server with its secret.
    pub server: Arc<EngineServer>,
    /// Who may connect.
    pub roster: Roster,
}

/// What is new since a worker looked last.
#[derive(Default)]
pub struct News {
    /// Another target; the inner none means that there should be nothing.
    pub target: Option<Option<Target>>,
    /// Something may have happened to the instance.
    pub look: bool,
    /// Users that may connect now, and users that may not any more.
    pub users: BTreeMap<UserName, Option<EngineUser>>,
    /// What caused it.
    pub causes: Vec<Trace>,
}

/// The way from the agent to one worker.
#[derive(Default)]
pub struct Mailbox {
    news: Mutex<News>,
    wake: Notify,
}

impl Mailbox {
    /// There is another target.
    pub fn target(&self, target: Option<Target>, cause: Option<Trace>) {
        self.change(|news| {
            news.target = Some(target);
            news.causes.extend(cause);
        });
    }

    /// Look again.
    pub fn look(&self) {
        self.change(|news| news.look = true);
    }

    /// Users came, changed or went.
    pub fn users(&self, users: impl IntoIterator<Item = (UserName, Option<EngineUser>)>, causes: &[Trace]) {
        self.change(|news| {
            news.users.extend(users);
            let room = CAUSES_MAX.saturating_sub(news.causes.len());
            news.causes.extend(causes.iter().take(room).cloned());
        });
    }

    /// Waits for news and takes them.
    pub async fn take(&self) -> News {
        self.wake.notified().await;
        std::mem::take(&mut *self.lock())
    }

    fn change(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.lock());
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
