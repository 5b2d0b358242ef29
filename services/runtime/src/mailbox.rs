//! What the agent tells the worker of an instance. Bounded by what there is, not by how often it changes: later
//! news of the same thing replaces earlier news.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bus::origin::Trace;
use contract::{UserName, fleet::Server};
use tokio::sync::Notify;

use crate::engine::{EngineServer, EngineUser, UserSecret};

/// Causes that are remembered of news: a span links to no more.
const CAUSES_MAX: usize = 32;

/// What the next users will come with.
pub(crate) type Coming = Arc<[UserSecret]>;

/// The users of one protocol who may connect.
#[derive(Clone, Default)]
pub(crate) struct Roster {
    users: Arc<Mutex<BTreeMap<UserName, EngineUser>>>,
    coming: Arc<Mutex<Option<Coming>>>,
}

impl Roster {
    /// To read or change it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<UserName, EngineUser>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next users will come with; none while that is not known.
    pub(crate) fn coming(&self) -> Option<Coming> {
        self.lock_coming().clone()
    }

    /// Takes note of what the next users will come with.
    pub(crate) fn expect(&self, coming: Coming) {
        *self.lock_coming() = Some(coming);
    }

    fn lock_coming(&self) -> MutexGuard<'_, Option<Coming>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub(crate) fn users(&self) -> Vec<EngineUser> {
        self.lock().values().cloned().collect()
    }
}

/// What a worker has to bring about.
#[derive(Clone)]
pub(crate) enum Order {
    /// Nothing is there.
    Gone,
    /// What is there stays as it is: it cannot be said yet what it should be, because keys are on their way.
    Wait(Arc<Server>),
    /// This server is as it should be, and these users may connect.
    Serve(Arc<EngineServer>, Roster),
}

/// What is new since a worker looked last.
#[derive(Default)]
pub(crate) struct News {
    /// Another order.
    pub(crate) order: Option<Order>,
    /// Something may have happened to the instance.
    pub(crate) look: bool,
    /// Users whose place in the roster has changed.
    pub(crate) users: BTreeSet<UserName>,
    /// Others are expected.
    pub(crate) coming: Option<Coming>,
    /// What caused it.
    pub(crate) causes: Vec<Trace>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.order.is_none() && !self.look && self.users.is_empty() && self.coming.is_none()
    }
}

/// The way from the agent to one worker.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    news: News,
    closed: bool,
}

impl Mailbox {
    /// There is another order. Says whether somebody will read it.
    pub(crate) fn order(&self, order: Order, cause: Option<Trace>) -> bool {
        self.change(|news| {
            news.order = Some(order);
            news.causes.extend(cause.filter(|_| news.causes.len() < CAUSES_MAX));
        })
    }

    /// Look again.
    pub(crate) fn look(&self) {
        self.change(|news| news.look = true);
    }

    /// The roster has changed for these users.
    pub(crate) fn users(&self, users: &[UserName], causes: &[Trace]) {
        self.change(|news| {
            news.users.extend(users.iter().cloned());
            let room = CAUSES_MAX.saturating_sub(news.causes.len());
            news.causes.extend(causes.iter().take(room).cloned());
        });
    }

    /// These are expected.
    pub(crate) fn coming(&self, coming: Coming) {
        self.change(|news| news.coming = Some(coming));
    }

    /// Waits for news and takes them.
    pub(crate) async fn take(&self) -> News {
        self.wake.notified().await;
        std::mem::take(&mut self.lock().news)
    }

    /// Leaves news for later; what came meanwhile is newer.
    pub(crate) fn put_back(&self, old: News) {
        self.change(|news| {
            news.order = news.order.take().or(old.order);
            news.look |= old.look;
            news.users.extend(old.users);
            news.coming = news.coming.take().or(old.coming);
            news.causes.splice(..0, old.causes);
            news.causes.truncate(CAUSES_MAX);
        });
    }

    /// Nobody will read any more; refused where there are news.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        state.closed = state.news.is_empty();
        state.closed
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn change(&self, change: impl FnOnce(&mut News)) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        change(&mut state.news);
        drop(state);
        self.wake.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_come_together_and_a_closed_box_takes_none() {
        let mailbox = Mailbox::default();
        let name = |text: &str| text.parse::<UserName>().unwrap();
        mailbox.users(&[name("a"), name("b")], &[]);
        mailbox.users(&[name("b")], &[]);
        mailbox.look();
        assert!(!mailbox.close(), "there is something to read");
        let news = mailbox.take().await;
        assert!(news.look && news.order.is_none());
        assert_eq!(news.users.into_iter().collect::<Vec<_>>(), [name("a"), name("b")]);
        assert!(mailbox.close());
        assert!(!mailbox.order(Order::Gone, None));
    }
}
