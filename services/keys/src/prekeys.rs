//! Shadowsocks keys that are made ahead of their owners, so that engines know them by then.
//!
//! An engine lets in whoever has a key that the nodes were told of. So what is told keeps to one rule: **a key in it is
//! nobody's, or the credentials that hold it stand**. Before credentials go, their key goes from what is told.
//! And no key is given twice: what an earlier start made is replaced before anybody's credentials go.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bus::{Bucket, Origin};
use contract::{
    Protocol, State,
    keys::{self, PrekeysEvent, Sealed},
    users::UserId,
};
use seal::random;
use tokio::sync::{Mutex, Notify};
use zeroize::Zeroizing;

use crate::{Error, keyring::Keyring};

const PROTOCOL: Protocol = keys::Prekeys::PROTOCOL;
/// So many that nobody has are told of. Engines look each of them up like a user's key.
pub const AHEAD: usize = 256;
/// When so many are given, as many follow.
const GIVEN_MAX: usize = 64;
/// The last ones that were given are told again: a node that has not heard of their owners yet keeps them.
const TOLD_AGAIN: usize = 32;
/// Between two tries to tell of them.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A user's key.
pub type Key = Zeroizing<[u8; keys::Prekeys::KEY]>;

/// Keys that are to be given.
pub struct Prekeys {
    bucket: Bucket<keys::Prekeys>,
    keyring: Arc<Keyring>,
    /// Held while nodes are told, so that what is told last is what there is.
    pool: Mutex<Pool>,
    low: Notify,
}

#[derive(Default)]
struct Pool {
    /// In the order in which they are given.
    keys: VecDeque<Prekey>,
    /// So many of the first are given.
    given: usize,
    /// There are some that the nodes were not told of.
    untold: bool,
    /// The nodes may have been told of some that are void.
    overtold: bool,
}

struct Prekey {
    key: Key,
    owner: Option<UserId>,
}

impl Prekeys {
    /// None yet; [`Self::run`] makes them.
    pub fn new(bucket: Bucket<keys::Prekeys>, keyring: Arc<Keyring>) -> Self {
        // An earlier start has told of its own.
        let pool = Pool { overtold: true, ..Pool::default() };
        Self { bucket, keyring, pool: Mutex::new(pool), low: Notify::new() }
    }

    /// Gives somebody the next key; none where they are asked for faster than they are made.
    pub async fn give(&self, owner: UserId) -> Option<Key> {
        let mut pool = self.pool.lock().await;
        let given = pool.given;
        let key = pool.keys.get_mut(given).map(|prekey| {
            prekey.owner = Some(owner);
            prekey.key.clone()
        });
        pool.given += usize::from(key.is_some());
        if pool.is_low() {
            self.low.notify_one();
        }
        key
    }

    /// The credentials of these users are about to go: the nodes are told before.
    pub async fn void(&self, owners: &[UserId]) -> Result<(), Error> {
        if owners.is_empty() {
            return Ok(());
        }
        let mut pool = self.pool.lock().await;
        pool.take_from(owners);
        if pool.overtold { self.tell(&mut pool).await } else { Ok(()) }
    }

    /// Somebody else changes credentials: whoever had one of these may be gone.
    pub async fn void_all(&self) {
        let mut pool = self.pool.lock().await;
        *pool = Pool { overtold: true, ..Pool::default() };
        self.low.notify_one();
    }

    /// Makes more whenever some were given, for ever.
    pub async fn run(&self) {
        loop {
            while let Err(error) = Origin::service("keys").scope(self.refill()).await {
                tracing::warn!(%error, "no keys are made ahead for now");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            self.low.notified().await;
        }
    }

    async fn refill(&self) -> Result<(), Error> {
        let mut pool = self.pool.lock().await;
        if pool.is_low() {
            pool.fill()?;
        }
        if pool.untold || pool.overtold { self.tell(&mut pool).await } else { Ok(()) }
    }

    async fn tell(&self, pool: &mut Pool) -> Result<(), Error> {
        let mut all = Zeroizing::new(Vec::with_capacity(pool.keys.len() * keys::Prekeys::KEY));
        pool.keys.iter().for_each(|prekey| all.extend_from_slice(prekey.key.as_slice()));
        let sealed = self.keyring.delivery(PROTOCOL).seal(&all, &Sealed::of_prekeys(PROTOCOL))?;
        let prekeys = keys::Prekeys { protocol: PROTOCOL, keys: sealed };
        // Whatever stands there: it is the only key of the bucket.
        let last = self.bucket.revision().await?;
        let written = self.bucket.write_after(&prekeys.key(), Some(&prekeys), PrekeysEvent::Made, last).await;
        written.map_err(contract::Error::from)?;
        (pool.untold, pool.overtold) = (false, false);
        Ok(())
    }
}

impl Pool {
    fn is_low(&self) -> bool {
        self.keys.len() - self.given + GIVEN_MAX <= AHEAD
    }

    fn fill(&mut self) -> Result<(), seal::Error> {
        self.untold = true;
        self.keys.drain(..self.given.saturating_sub(TOLD_AGAIN));
        self.given = self.given.min(TOLD_AGAIN);
        while self.keys.len() - self.given < AHEAD {
            self.keys.push_back(Prekey { key: random()?, owner: None });
        }
        Ok(())
    }

    fn take_from(&mut self, owners: &[UserId]) {
        let before = self.keys.len();
        self.keys.retain(|prekey| prekey.owner.is_none_or(|owner| !owners.contains(&owner)));
        let taken = before - self.keys.len();
        self.given -= taken;
        self.overtold |= taken > 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn more_are_made_and_the_last_that_were_given_are_told_again() {
        let mut pool = Pool::default();
        let (mut seen, mut given) = (HashSet::new(), Vec::new());
        for _ in 0..10 {
            assert!(pool.is_low());
            pool.fill().unwrap();
            assert!(pool.keys.len() <= AHEAD + TOLD_AGAIN);
            seen.extend(pool.keys.iter().map(|prekey| prekey.key.to_vec()));
            while !pool.is_low() {
                given.push(pool.keys[pool.given].key.to_vec());
                pool.given += 1;
            }
        }
        assert_eq!(seen.len(), AHEAD + 9 * GIVEN_MAX, "as many new ones as were given");
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), 10 * GIVEN_MAX, "none is given twice");
        pool.fill().unwrap();
        let again = pool.keys.iter().filter(|prekey| given.contains(&prekey.key.to_vec())).count();
        assert_eq!(again, TOLD_AGAIN);
    }

    #[test]
    fn who_goes_takes_the_key_along() {
        let mut pool = Pool::default();
        pool.fill().unwrap();
        let (alice, bob) = (UserId(uuid::Uuid::now_v7()), UserId(uuid::Uuid::now_v7()));
        for owner in [alice, bob] {
            pool.keys[pool.given].owner = Some(owner);
            pool.given += 1;
        }
        let next = pool.keys[2].key.clone();
        pool.take_from(&[UserId(uuid::Uuid::now_v7())]);
        assert!(!pool.overtold, "somebody who has none of them");
        pool.take_from(&[alice]);
        assert!(pool.overtold);
        assert_eq!((pool.given, pool.keys.len()), (1, AHEAD - 1));
        assert_eq!(pool.keys[pool.given].key, next);
    }
}
