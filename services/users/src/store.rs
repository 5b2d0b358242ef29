//! The bucket `vpn_users`, and a view of it for lists.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLockReadGuard},
};

use bus::{Bucket, Bus, Shutdown, View, Write, bucket::WriteError};
use contract::{
    UserName,
    users::{Event, User},
};
use futures::{StreamExt, TryStreamExt};

use crate::{Error, expiry::Agenda};

/// Reads that are in flight together when a batch met names that exist.
const READS_AT_ONCE: usize = 64;

/// The accounts.
#[derive(Clone)]
pub struct Store {
    bucket: Bucket<User>,
    view: View<User>,
}

impl Store {
    /// Opens the bucket and reads it once. `agenda` learns of every change.
    pub async fn open(bus: &Bus, shutdown: &Shutdown, agenda: Arc<Agenda>) -> Result<Self, contract::Error> {
        let bucket = bus.own::<User>().await?;
        let view = View::open_telling(&bucket, shutdown, move |changes| agenda.apply(changes)).await?;
        Ok(Self { bucket, view })
    }

    /// Stores a user whose name is free.
    pub async fn insert(&self, user: &User) -> Result<(), Error> {
        match self.bucket.insert(user, Event::Created).await {
            Ok(_) => Ok(()),
            Err(WriteError::Conflict) => {
                let existing = self.bucket.get(user.name.as_str()).await?.and_then(|entry| entry.value);
                Err(Error::Taken { name: user.name.clone(), existing: existing.map(Box::new) })
            }
            Err(WriteError::Failed(error)) => Err(error.into()),
        }
    }

    /// Stores all of them or none; those that the same batch has stored before stay as they are.
    pub async fn insert_all(&self, users: Vec<User>) -> Result<(), Error> {
        let fresh = users.iter().map(|user| (user.clone(), 0)).collect();
        match self.write_all(fresh).await {
            Err(WriteError::Conflict) => {}
            other => return Ok(other.map_err(contract::Error::from)?),
        }
        // Some of the names exist or existed: see which, once.
        let found: Vec<Option<(User, u64)>> = futures::stream::iter(users)
            .map(|user| async move {
                match self.bucket.get(user.name.as_str()).await? {
                    None => Ok(Some((user, 0))),
                    Some(entry) => match entry.value {
                        None => Ok(Some((user, entry.revision))),
                        Some(own) if own.batch == user.batch => Ok(None),
                        Some(other) => Err(Error::Taken { name: user.name, existing: Some(Box::new(other)) }),
                    },
                }
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        self.write_all(found.into_iter().flatten().collect())
            .await
            .map_err(|error| contract::Error::from(error).into())
    }

    async fn write_all(&self, users: Vec<(User, u64)>) -> Result<(), WriteError> {
        let write = |(user, expected): (User, u64)| Write {
            key: user.name.to_string(),
            value: Some(user),
            event: Event::Created,
            expected,
        };
        let writes: Vec<_> = users.into_iter().map(write).collect();
        self.bucket.write_all(&writes).await.map(drop)
    }

    /// Reads a user.
    pub async fn get(&self, name: &UserName) -> Result<User, Error> {
        let entry = self.bucket.get(name.as_str()).await?;
        entry.and_then(|entry| entry.value).ok_or_else(|| Error::NotFound(name.clone()))
    }

    /// Changes a user on top of whatever came in between; `change` returns none to leave it as it is.
    pub async fn modify(
        &self,
        name: &UserName,
        change: impl FnMut(&User) -> Result<Option<(User, Event)>, Error>,
    ) -> Result<User, Error> {
        self.bucket.modify(name.as_str(), || Error::NotFound(name.clone()), change).await
    }

    /// Removes a user; a tombstone with the event stays.
    pub async fn delete(&self, name: &UserName) -> Result<User, Error> {
        let deleted = self.bucket.delete(name.as_str(), Event::Deleted).await?;
        deleted.ok_or_else(|| Error::NotFound(name.clone()))
    }

    /// All users by name, as new as what this process has written or told.
    pub async fn all(&self) -> RwLockReadGuard<'_, BTreeMap<String, User>> {
        self.view.current().await;
        self.view.read()
    }
}
