//! The bucket `vpn_credentials`: what is issued, and every write of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bus::{Bucket, Write, bucket::WriteError};
use contract::{
    Timestamp, UserName, WireguardAddress,
    keys::{Credentials, CredentialsEvent},
    users::{BATCH_MAX, UserId},
};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    Error,
    follow::Standing,
    issue::{self, Issue},
    keyring::Keyring,
    places::Places,
    prekeys::Prekeys,
};

/// How often a write is decided anew on top of what came in between. Nobody else writes the bucket but a person,
/// or a second `keys` by mistake.
pub const CONFLICTS_MAX: usize = 8;
/// Up to so many users at once get keys that were made ahead.
const FEW: usize = 8;

/// The credentials.
pub struct Store {
    bucket: Bucket<Credentials>,
    ledger: Mutex<Ledger>,
}

impl Store {
    /// A store of what was loaded.
    pub fn new(ledger: Ledger) -> Self {
        Self { bucket: ledger.bucket.clone(), ledger: Mutex::new(ledger) }
    }

    /// A user's credentials.
    pub async fn get(&self, user: &UserName) -> Result<Option<Credentials>, Error> {
        Ok(self.bucket.get(user.as_str()).await?.and_then(|entry| entry.value))
    }

    /// What is issued, to change it: one writer at a time.
    pub async fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().await
    }
}

/// What is issued, without the secrets: some 100 bytes a user.
pub struct Ledger {
    bucket: Bucket<Credentials>,
    slots: BTreeMap<UserName, Slot>,
    places: Places,
    /// Places of users whose credentials are on their way to the bucket. A write that was not answered may be
    /// stored yet, so nobody else gets its places, and the next try takes the same.
    reserved: HashMap<UserId, WireguardAddress>,
    /// Some credentials as they were loaded.
    sample: Option<Credentials>,
}

/// What stands under a name: credentials, or the marker of their deletion.
struct Slot {
    revision: u64,
    held: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    user_id: UserId,
    generation: u32,
    address: WireguardAddress,
}

/// What is to be written under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// First credentials of this user.
    Issue(UserId),
    /// New ones of the user who has some.
    Rotate,
    /// None any more.
    Revoke,
}

/// What came of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// All is stored.
    Stored,
    /// Something came in between, and the ledger knows it by now: decide anew.
    DecideAnew,
}

impl Ledger {
    /// Reads the bucket.
    pub async fn load(bucket: Bucket<Credentials>) -> Result<Self, Error> {
        let mut ledger = Self {
            bucket,
            slots: BTreeMap::new(),
            places: Places::default(),
            reserved: HashMap::new(),
            sample: None,
        };
        ledger.reload().await?;
        Ok(ledger)
    }

    /// Some credentials as they were loaded; none where none were.
    pub fn sample(&self) -> Option<&Credentials> {
        self.sample.as_ref()
    }

    /// How many users have credentials.
    pub fn count(&self) -> usize {
        self.slots.values().filter(|slot| slot.held.is_some()).count()
    }

    /// For whom credentials stand under a name.
    pub fn standing(&self, name: &UserName) -> Standing<UserId> {
        match self.slots.get(name) {
            None => Standing::Never,
            Some(Slot { held: None, .. }) => Standing::Gone,
            Some(Slot { held: Some(held), .. }) => Standing::For(held.user_id),
        }
    }

    fn held_by(&self, name: &UserName) -> Option<UserId> {
        Some(self.slots.get(name)?.held?.user_id)
    }

    /// The generation that holds under a name.
    pub fn generation(&self, name: &UserName) -> Option<u32> {
        Some(self.slots.get(name)?.held?.generation)
    }

    /// Writes what is ordered, all at once or nothing (beyond [`BATCH_MAX`] names: step by step).
    pub async fn write(
        &mut self,
        keyring: &Arc<Keyring>,
        prekeys: &Prekeys,
        orders: &[(UserName, Order)],
    ) -> Result<Written, Error> {
        for orders in orders.chunks(BATCH_MAX) {
            let gone: Vec<UserId> = orders.iter().filter_map(|(name, _)| self.held_by(name)).collect();
            prekeys.void(&gone).await?;
            let writes = self.prepare(keyring, prekeys, orders).await?;
            let stored = match writes.as_slice() {
                [] => continue,
                [one] => self.bucket.write(&one.key, one.value.as_ref(), one.event, one.expected).await,
                many => self.bucket.write_all(many).await,
            };
            match stored {
                Ok(last) => self.keep(writes, last),
                Err(WriteError::Failed(error)) => return Err(error.into()),
                Err(WriteError::Conflict) => {
                    tracing::warn!("somebody else writes vpn_credentials; reading it again");
                    prekeys.void_all().await;
                    self.reload().await?;
                    return Ok(Written::DecideAnew);
                }
            }
        }
        Ok(Written::Stored)
    }

    /// Makes what is to be written. What needs nothing is left out.
    async fn prepare(
        &mut self,
        keyring: &Arc<Keyring>,
        prekeys: &Prekeys,
        orders: &[(UserName, Order)],
    ) -> Result<Vec<Write<Credentials>>, Error> {
        let (mut issues, mut writes) = (Vec::new(), Vec::new());
        // Engines take in many at once without knowing their keys before.
        let few = orders.len() <= FEW;
        for (name, order) in orders {
            let (expected, held) = self.slots.get(name).map_or((0, None), |slot| (slot.revision, slot.held));
            let (event, issue) = match (order, held) {
                (Order::Issue(user_id), _) => {
                    (CredentialsEvent::Issued, Some((*user_id, 1, self.reserve(*user_id)?)))
                }
                (Order::Rotate, Some(held)) => (
                    CredentialsEvent::Rotated,
                    Some((held.user_id, held.generation.saturating_add(1), held.address)),
                ),
                (Order::Revoke, Some(_)) => (CredentialsEvent::Revoked, None),
                (Order::Rotate | Order::Revoke, None) => continue,
            };
            if let Some((user_id, generation, address)) = issue {
                let shadowsocks_2022 = if few { prekeys.give(user_id).await } else { None };
                issues.push(Issue { user: name.clone(), user_id, generation, address, shadowsocks_2022 });
            }
            writes.push((issue.is_some(), Write { key: name.to_string(), value: None, event, expected }));
        }
        let mut made = issue::credentials_of_all(keyring, issues, Timestamp::now()).await?.into_iter();
        let fill = |(issued, write)| Write { value: if issued { made.next() } else { None }, ..write };
        Ok(writes.into_iter().map(fill).collect())
    }

    fn reserve(&mut self, user_id: UserId) -> Result<WireguardAddress, Error> {
        if let Some(address) = self.reserved.get(&user_id) {
            return Ok(*address);
        }
        let address = self.places.take().ok_or(Error::AddressesTaken)?;
        self.reserved.insert(user_id, address);
        Ok(address)
    }

    /// Takes note of what is stored. A batch has consecutive revisions.
    fn keep(&mut self, writes: Vec<Write<Credentials>>, last: u64) {
        let first = last.saturating_sub(writes.len().saturating_sub(1) as u64);
        for (revision, write) in (first..).zip(writes) {
            if let Ok(name) = write.key.parse() {
                self.note(name, revision, write.value.as_ref());
            }
        }
    }

    fn note(&mut self, name: UserName, revision: u64, value: Option<&Credentials>) {
        let slot = Slot::of(revision, value);
        let held = slot.held;
        let before = self.slots.insert(name, slot).and_then(|slot| slot.held);
        if let Some(held) = held {
            self.reserved.remove(&held.user_id);
        }
        match before {
            Some(before) if held.map(|held| held.address) != Some(before.address) => {
                self.places.free(before.address);
            }
            _ => {}
        }
    }

    /// Reads the bucket again. Until all is read the ledger stays as it was.
    async fn reload(&mut self) -> Result<(), Error> {
        let (mut slots, mut sample) = (BTreeMap::new(), None);
        let mut watch = self.bucket.watch().await?;
        while !watch.is_current() {
            for change in watch.next().await {
                let Ok(name) = change.key.parse::<UserName>() else { continue };
                slots.insert(name, Slot::of(change.entry.revision, change.entry.value.as_ref()));
                sample = change.entry.value.or(sample);
            }
        }
        let mut places = Places::default();
        for (name, held) in slots.iter().filter_map(|(name, slot)| Some((name, slot.held?))) {
            self.reserved.remove(&held.user_id);
            if !places.mark(held.address) {
                tracing::error!(user = %name, address = %held.address.v4(), "two users have this WireGuard address: create one of them anew");
            }
        }
        for address in self.reserved.values() {
            places.mark(*address);
        }
        (self.slots, self.places, self.sample) = (slots, places, sample);
        Ok(())
    }
}

impl Slot {
    fn of(revision: u64, value: Option<&Credentials>) -> Self {
        let held = value.map(|value| Held {
            user_id: value.user_id,
            generation: value.generation,
            address: value.wireguard.address,
        });
        Self { revision, held }
    }
}
