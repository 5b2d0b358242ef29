//! Entries in an engine's list of users that stand under no user's name. Only Shadowsocks 2022 has them, for three
//! reasons.
//!
//! **Without any user** Xray would let in whoever knows the server's key, which every former user does.
//!
//! **When a user leaves**, Xray 26.3 moves its last entry to the free place first and tells its table of keys some
//! milliseconds later: whoever connects with the last entry's key meanwhile is looked up behind the end of the list,
//! and Xray ends, with everybody's connections. So the last entry must be nobody's when somebody leaves.
//!
//! **When a user comes**, Xray reads the keys of all entries again (8 ms and more with 10,000 of them). So entries with
//! the keys that users will get wait for them: who comes with such a key is in already, under the entry's name instead
//! of its own.

use std::collections::{HashMap, HashSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use contract::Code;
use prost::Message as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    api::messages::{Named as _, ShadowsocksAccount, Typed, User},
    users::{Change, same},
};
use crate::backend::Error;

/// A user's key.
pub(super) type Key = Zeroizing<[u8; 16]>;

/// How entries are called whose key nobody has; no user's name starts so.
pub(super) const PLACEHOLDER: &str = ".nobody-";
/// How entries are called that wait for their user, or did.
const WAITING: &str = ".next-";

/// An entry under no user's name.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Nobody {
    pub(super) email: String,
    pub(super) key: Key,
}

impl Nobody {
    /// One whose key nobody has.
    pub(super) fn placeholder() -> Result<Self, Error> {
        let mut key = Zeroizing::new([0; 16]);
        getrandom::fill(key.as_mut()).map_err(|error| {
            Error::new(Code::INTERNAL, format!("the system gives no random numbers: {error}"))
        })?;
        Ok(Self { email: format!("{PLACEHOLDER}{}", Uuid::new_v4().simple()), key })
    }

    /// One that waits for who will have this key.
    fn waiting(key: Key) -> Self {
        Self { email: format!("{WAITING}{}", Uuid::new_v4().simple()), key }
    }

    pub(super) fn user(&self) -> User {
        let account = ShadowsocksAccount { key: STANDARD.encode(self.key.as_slice()) };
        User { email: self.email.clone(), account: Some(Typed::new(&account)) }
    }
}

/// What is known of these entries in one engine.
#[derive(Default)]
pub(super) struct Nobodies {
    /// Keys that users will come with, in their order.
    expected: Vec<Key>,
    /// Entries that wait.
    waiting: Vec<Nobody>,
    /// Entries whose user has come, by the user's name.
    taken: HashMap<String, Nobody>,
    placeholders: usize,
    /// Whether the last entry is one of them.
    ends_the_list: bool,
}

impl Nobodies {
    /// What leads from the entries that there are to these users; what is known is known anew.
    pub(super) fn compare(&mut self, wanted: Vec<User>, there: Vec<User>) -> Change {
        let mut change = Change::default();
        let mut named = HashMap::new();
        let ends_the_list = there.last().is_some_and(|user| is_placeholder(&user.email));
        *self = Self { ends_the_list, expected: std::mem::take(&mut self.expected), ..Self::default() };
        for user in there {
            match (is_placeholder(&user.email), user.email.starts_with(WAITING), key_of(&user)) {
                (true, ..) => self.placeholders += 1,
                (_, true, Some(key)) => self.waiting.push(Nobody { email: user.email, key }),
                _ => drop(named.insert(user.email, user.account)),
            }
        }
        for user in wanted {
            self.has_come(&user);
            let account = named.remove(&user.email);
            let known = account.is_some();
            if known && same(account.flatten().as_ref(), user.account.as_ref()) {
                continue;
            }
            match self.waiting_for(&user) {
                Some(at) => {
                    self.take(user.email.clone(), at);
                    change.leave.extend(known.then_some(user.email));
                }
                None if known => change.change.push(user),
                None => change.join.push(user),
            }
        }
        change.leave.extend(named.into_keys());
        change
    }

    /// Gives these users the entries that wait for them. Returns who found none, and the names under which those who
    /// have another key now stood before; `is_named` says who stands under its own name.
    pub(super) fn welcome(
        &mut self,
        users: Vec<User>,
        is_named: impl Fn(&str) -> bool,
    ) -> (Vec<User>, Vec<String>) {
        let (mut others, mut before) = (Vec::new(), Vec::new());
        for user in users {
            self.has_come(&user);
            let stands = self.taken.get(&user.email);
            if stands.is_some_and(|nobody| Some(&nobody.key) == key_of(&user).as_ref()) {
                continue;
            }
            let Some(at) = self.waiting_for(&user) else {
                before.extend(self.taken.remove(&user.email).map(|nobody| nobody.email));
                others.push(user);
                continue;
            };
            let named = is_named(&user.email).then(|| user.email.clone());
            before.extend(self.take(user.email, at).map(|nobody| nobody.email).or(named));
        }
        (others, before)
    }

    /// The name under which a user stands, who does so no more.
    pub(super) fn part(&mut self, name: &str) -> String {
        self.taken.remove(name).map_or_else(|| name.to_owned(), |nobody| nobody.email)
    }

    /// Under which name a user stands.
    pub(super) fn entry_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.taken.get(name).map_or(name, |nobody| nobody.email.as_str())
    }

    /// Under which names there is somebody, or may be soon, where users are called so.
    pub(super) fn standing<'a>(
        &'a self,
        users: impl Iterator<Item = &'a str>,
    ) -> impl Iterator<Item = &'a str> {
        users.map(|name| self.entry_of(name)).chain(self.waiting.iter().map(|nobody| nobody.email.as_str()))
    }

    /// Users will come with these keys. Returns the entries that wait for others.
    pub(super) fn expect(&mut self, keys: Vec<Key>) -> Vec<String> {
        self.expected = keys;
        let (waiting, late) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|nobody| self.expected.contains(&nobody.key));
        self.waiting = waiting;
        late.into_iter().map(|nobody: Nobody| nobody.email).collect()
    }

    /// An entry that should be there and is not.
    pub(super) fn missing(&self) -> Option<Nobody> {
        let waits = |key: &&Key| self.waiting.iter().any(|nobody| nobody.key == **key);
        self.expected.iter().find(|key| !waits(key)).cloned().map(Nobody::waiting)
    }

    /// All entries that should wait, those that do and new ones.
    pub(super) fn all_waiting(&self) -> Vec<Nobody> {
        let is_expected = |nobody: &&Nobody| self.expected.contains(&nobody.key);
        let waits = |key: &Key| self.waiting.iter().find(|nobody| nobody.key == *key);
        let late = self.waiting.iter().filter(|nobody| !is_expected(nobody)).cloned();
        let in_order = self
            .expected
            .iter()
            .map(|key| waits(key).cloned().unwrap_or_else(|| Nobody::waiting(key.clone())));
        late.chain(in_order).collect()
    }

    /// The list ends with these entries that wait, and one placeholder, which is the only one.
    pub(super) fn replaced(&mut self, waiting: Vec<Nobody>) {
        self.waiting = waiting;
        self.placeholders = 1;
        self.ends_the_list = true;
    }

    /// The list ends with this one.
    pub(super) fn waits(&mut self, nobody: Nobody) {
        self.ends_the_list = false;
        self.waiting.push(nobody);
    }

    /// The list ends with a placeholder.
    pub(super) fn placed(&mut self) {
        self.ends_the_list = true;
        self.placeholders += 1;
    }

    /// Users stand at the end of the list.
    pub(super) fn joined(&mut self) {
        self.ends_the_list = false;
    }

    /// An entry has left, and the placeholder that ended the list has taken its place.
    pub(super) fn left(&mut self) {
        self.ends_the_list = false;
    }

    /// Whether the list ends with a placeholder. One that waits would not do: it may have a user by now, of whom we
    /// have not heard.
    pub(super) fn end_the_list(&self) -> bool {
        self.ends_the_list
    }

    pub(super) fn placeholders(&self) -> usize {
        self.placeholders
    }

    /// Which of these entries are users', under their own names or not.
    pub(super) fn users_of(&self, there: Vec<User>) -> impl Iterator<Item = User> {
        let taken: HashSet<&str> = self.taken.values().map(|nobody| nobody.email.as_str()).collect();
        let is_users = move |email: &str| {
            !is_placeholder(email) && (!email.starts_with(WAITING) || taken.contains(email))
        };
        there.into_iter().filter(move |user| is_users(&user.email))
    }

    /// Nobody else will come with this user's key.
    fn has_come(&mut self, user: &User) {
        if !self.expected.is_empty()
            && let Some(key) = key_of(user)
        {
            self.expected.retain(|expected| *expected != key);
        }
    }

    /// The user takes the entry; returns the one it had.
    fn take(&mut self, name: String, at: usize) -> Option<Nobody> {
        let nobody = self.waiting.remove(at);
        self.taken.insert(name, nobody)
    }

    fn waiting_for(&self, user: &User) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let key = key_of(user)?;
        self.waiting.iter().position(|nobody| nobody.key == key)
    }
}

fn is_placeholder(email: &str) -> bool {
    email.starts_with(PLACEHOLDER)
}

fn key_of(user: &User) -> Option<Key> {
    let account = user.account.as_ref().filter(|account| account.name == ShadowsocksAccount::NAME)?;
    let account = ShadowsocksAccount::decode(account.value.as_slice()).ok()?;
    let mut key = Zeroizing::new([0; 16]);
    // The decoder wants room for more than it writes.
    let bytes = Zeroizing::new(STANDARD.decode(&account.key).ok()?);
    key.copy_from_slice(bytes.get(..16).filter(|_| bytes.len() == 16)?);
    Some(key)
}
