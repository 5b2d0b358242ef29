//! Who the users are: totals are kept by id, and people ask by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bus::{Bucket, Shutdown};
use contract::{
    Error, UserName,
    users::{User, UserId},
};

/// The users there are, by both. 100 bytes a user.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    ids: HashMap<UserName, UserId>,
    names: HashMap<UserId, UserName>,
}

impl Names {
    /// Reads the users, and follows them from then on.
    pub(crate) async fn follow(bucket: &Bucket<User>, shutdown: &Shutdown) -> Result<Self, Error> {
        let names = Self::default();
        let mut watch = bucket.watch().await?;
        while !watch.is_current() {
            names.take(watch.next().await);
        }
        shutdown.spawn_until("names", {
            let names = names.clone();
            async move {
                loop {
                    names.take(watch.next().await);
                }
            }
        });
        Ok(names)
    }

    /// The user of that name.
    pub(crate) fn id(&self, name: &UserName) -> Option<UserId> {
        self.lock().ids.get(name).copied()
    }

    /// The name of that user; none when it is gone.
    pub(crate) fn name(&self, id: UserId) -> Option<UserName> {
        self.lock().names.get(&id).cloned()
    }

    fn take(&self, changes: Vec<bus::Change<User>>) {
        let mut known = self.lock();
        for change in changes {
            let Ok(name) = change.key.parse::<UserName>() else { continue };
            if let Some(before) = known.ids.remove(&name) {
                known.names.remove(&before);
            }
            if let Some(user) = change.entry.value {
                known.ids.insert(name.clone(), user.id);
                known.names.insert(user.id, name);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
