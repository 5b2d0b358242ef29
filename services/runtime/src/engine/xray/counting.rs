//! How much users send and receive, by Xray's counters.
//!
//! Xray counts under the names of its entries, from a user's first connection on until it ends, whoever leaves
//! meanwhile. So an entry is read once more when its user leaves: the next one of that name begins there.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::{usage::Traffic, users::UserId};

use super::api::Api;
use crate::{backend::Error, engine::Reading};

/// Up to so many entries are read one by one: all of them take a millisecond for every thousand.
const FEW: usize = 16;

/// What Xray counts, and for whom.
pub(super) struct Counting {
    api: Api,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose the entries are.
    users: HashMap<String, UserId>,
    /// What was read of those who left, since the last reading of all.
    last: Vec<Reading>,
}

impl Counting {
    pub(super) fn new(api: Api) -> Self {
        Self { api, state: Mutex::default() }
    }

    /// These entries are these users'.
    pub(super) fn come(&self, entries: impl Iterator<Item = (String, UserId)>) {
        self.lock().users.extend(entries);
    }

    /// No entries but these are anybody's.
    pub(super) async fn only(&self, entries: HashMap<String, UserId>) {
        let gone: Vec<String> = {
            let users = &self.lock().users;
            users.keys().filter(|entry| !entries.contains_key(*entry)).cloned().collect()
        };
        self.leave(&gone).await;
        self.lock().users = entries;
    }

    /// These entries are nobody's any more, and their sessions have ended.
    pub(super) async fn leave(&self, entries: &[String]) {
        let ours: Vec<String> = {
            let users = &self.lock().users;
            entries.iter().filter(|entry| users.contains_key(*entry)).cloned().collect()
        };
        if ours.is_empty() {
            return;
        }
        let read = self.read(&ours).await;
        let mut state = self.lock();
        match read {
            Ok(counters) => {
                let State { users, last } = &mut *state;
                last.extend(readings(counters, users));
            }
            Err(error) => tracing::warn!(%error, "what users had used who left is not known to the last"),
        }
        for entry in &ours {
            state.users.remove(entry);
        }
    }

    /// All counters.
    pub(super) async fn all(&self) -> Result<Vec<Reading>, Error> {
        let counters = self.api.traffic().await?;
        let mut state = self.lock();
        let mut found = std::mem::take(&mut state.last);
        found.extend(readings(counters, &state.users));
        Ok(found)
    }

    /// The engine starts anew, and counts from nothing.
    pub(super) fn forget(&self) {
        *self.lock() = State::default();
    }

    async fn read(&self, entries: &[String]) -> Result<HashMap<String, Traffic>, Error> {
        if entries.len() > FEW {
            let wanted: HashSet<&String> = entries.iter().collect();
            let mut counters = self.api.traffic().await?;
            counters.retain(|entry, _| wanted.contains(entry));
            return Ok(counters);
        }
        let mut counters = HashMap::new();
        for entry in entries {
            counters.insert(entry.clone(), self.api.traffic_of(entry).await?);
        }
        Ok(counters)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn readings(
    counters: HashMap<String, Traffic>,
    users: &HashMap<String, UserId>,
) -> impl Iterator<Item = Reading> {
    counters.into_iter().map(|(entry, traffic)| {
        let user = users.get(&entry).copied();
        Reading { entry, user, traffic, falls: false, ends: false }
    })
}
