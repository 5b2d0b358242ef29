//! An engine in memory, for tests of the agent's logic.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use contract::{Code, UserName};
use tokio::time::Instant;

use super::{Converged, Engine, EngineServer, EngineUser, Launch, Reading};
use crate::backend::{Error, Rights};

/// An engine in memory. Clones share it, as adapters of the same instance share a program.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    users: BTreeMap<UserName, EngineUser>,
    prepared: usize,
    saved: usize,
    /// The next calls that fail.
    failures: usize,
    counters: Vec<Reading>,
}

impl Fake {
    /// Who may connect.
    pub(crate) fn users(&self) -> Vec<String> {
        self.lock().users.keys().map(ToString::to_string).collect()
    }

    /// How often it was made ready for a start.
    pub(crate) fn prepared(&self) -> usize {
        self.lock().prepared
    }

    /// How often its file was written.
    pub(crate) fn saved(&self) -> usize {
        self.lock().saved
    }

    /// Its counters stand there.
    pub(crate) fn counts(&self, counters: Vec<Reading>) {
        self.lock().counters = counters;
    }

    /// Its next calls fail.
    pub(crate) fn fail(&self, calls: usize) {
        self.lock().failures = calls;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, effect: impl FnOnce(&mut State)) -> Result<(), Error> {
        let mut state = self.lock();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(Error::new(Code::RUNTIME_ENGINE_FAILED, "scripted"));
        }
        effect(&mut state);
        Ok(())
    }
}

#[async_trait]
impl Engine for Fake {
    fn launch(&self) -> Launch {
        Launch {
            image: "engine:1".parse().unwrap(),
            program: "engine".into(),
            args: Vec::new(),
            env: Vec::new(),
            rights: Rights::None,
        }
    }

    async fn prepare(&self, _: &EngineServer, users: &[EngineUser]) -> Result<(), Error> {
        self.call(|state| {
            state.prepared += 1;
            state.users = users.iter().map(|user| (user.name.clone(), user.clone())).collect();
        })
    }

    async fn ready(&self, _: Instant) -> Result<(), Error> {
        self.call(|_| {})
    }

    async fn converge(&self, users: &[EngineUser], _: u32) -> Result<Converged, Error> {
        self.call(|state| {
            state.users = users.iter().map(|user| (user.name.clone(), user.clone())).collect();
        })?;
        Ok(Converged::default())
    }

    async fn add(&self, users: &[EngineUser], _: u32) -> Result<(), Error> {
        self.call(|state| state.users.extend(users.iter().map(|user| (user.name.clone(), user.clone()))))
    }

    async fn remove(&self, users: &[UserName], _: u32) -> Result<(), Error> {
        self.call(|state| state.users.retain(|name, _| !users.contains(name)))
    }

    async fn usage(&self) -> Result<Vec<Reading>, Error> {
        Ok(self.lock().counters.clone())
    }

    async fn save(&self, _: &EngineServer, _: &[EngineUser]) -> Result<(), Error> {
        self.call(|state| state.saved += 1)
    }
}
