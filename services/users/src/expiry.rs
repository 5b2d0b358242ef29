//! Ends accounts whose time is over. Level-triggered: it follows what the bucket holds, so that a restart or a
//! second replica changes nothing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::{Change, Origin};
use contract::{
    Timestamp, UserName,
    users::{Event, User, UserState},
};
use tokio::{sync::Notify, time::sleep};

use crate::{Error, store::Store};

/// A sleep at most: the wall clock can be set while we sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When who is to be ended.
#[derive(Default)]
pub struct Agenda {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    due: BTreeSet<(Timestamp, UserName)>,
    by_name: HashMap<String, Timestamp>,
}

impl Agenda {
    /// Takes in what changed.
    pub fn apply(&self, changes: &[Change<User>]) {
        let mut state = self.lock();
        changes.iter().for_each(|change| state.apply(change));
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, change: &Change<User>) {
        if let (Some(at), Ok(name)) = (self.by_name.remove(&change.key), change.key.parse()) {
            self.due.remove(&(at, name));
        }
        let active = change.entry.value.as_ref().filter(|user| user.is_active());
        if let Some((at, user)) = active.and_then(|user| Some((user.expires_at?, user))) {
            self.by_name.insert(change.key.clone(), at);
            self.due.insert((at, user.name.clone()));
        }
    }

    /// Takes the first whose time is over.
    fn pop(&mut self, now: Timestamp) -> Option<UserName> {
        if self.due.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        self.by_name.remove(name.as_str());
        Some(name)
    }

    /// Puts one back that could not be ended: the others are not to wait for it.
    fn put_off(&mut self, name: UserName, until: Timestamp) {
        self.by_name.insert(name.to_string(), until);
        self.due.insert((until, name));
    }

    /// How long nothing is due.
    fn pause(&self, now: Timestamp) -> Duration {
        match self.due.first() {
            Some((at, _)) => {
                Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).min(LOOK_AGAIN)
            }
            None => LOOK_AGAIN,
        }
    }
}

/// Ends accounts whose time is over, until it is dropped.
pub async fn watch(store: Store, agenda: Arc<Agenda>) {
    loop {
        let pause = agenda.lock().pause(Timestamp::now());
        tokio::select! {
            () = agenda.changed.notified() => {}
            () = sleep(pause) => {}
        }
        // One a turn: what changes meanwhile counts.
        let Some(name) = agenda.lock().pop(Timestamp::now()) else { continue };
        if let Err(error) = Origin::service("users").scope(expire(&store, &name)).await {
            tracing::warn!(%error, user = %name, "an account could not be ended yet");
            agenda.lock().put_off(name, Timestamp::now() + RETRY_AFTER);
        }
    }
}

async fn expire(store: &Store, name: &UserName) -> Result<(), Error> {
    let expired = store
        .modify(name, |user| {
            let now = Timestamp::now();
            let over = user.is_active() && user.expires_at.is_some_and(|at| at <= now);
            Ok(over.then(|| {
                let state = UserState::Expired { since: now };
                (User { state, updated_at: now, ..user.clone() }, Event::Expired)
            }))
        })
        .await;
    match expired {
        Ok(_) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
