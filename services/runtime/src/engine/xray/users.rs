//! The users of a running engine.
//!
//! VLESS takes and loses users in 0.2 ms each, many at a time. Shadowsocks 2022 does not: Xray reads all users' keys
//! again for each one that comes or goes (13 ms with 10,000 of them, so 10,000 would take a minute).
//!
//! - One who comes is there before: its key is, without an owner; see [`nobody`](super::nobody).
//! - One who leaves is kept from new TCP connections by a rule before its key is taken back, where that takes longer.
//! - Many changes at once are made by an inbound that has them all and takes the old one's place on the same port: for
//!   a moment both listen, then the old one stops listening. Open TCP connections stay; UDP sessions go on with the new
//!   inbound, and only there, for a user whose keys it knows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use contract::{Code, Protocol, UserName, users::UserId};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    api::{
        Added, Api,
        messages::{Named as _, ShadowsocksAccount, ShadowsocksServer, Typed, User, VlessAccount},
    },
    blocking,
    config::{BLOCKED, FLOW, INBOUND},
    counting::Counting,
    follow::Gone,
    nobody::{Key, Nobodies, Nobody},
    sessions::Sessions,
    wrong_secret,
};
use crate::{
    backend::Error,
    engine::{Converged, EngineUser, Reading, UserSecret},
};

/// Calls under way at once: one takes 0.2 ms, of which Xray works on its two cores for a third.
const AT_ONCE: usize = 16;
/// Reading one user's key takes Shadowsocks 1.3 µs, so a quarter of a second goes by before many changes are made
/// by a new inbound, which UDP sessions notice.
const KEYS_READ: usize = 200_000;
/// Each Shadowsocks user who leaves costs a placeholder, which is read like any other user's key: so many of them add
/// a millisecond to every change.
const PLACEHOLDERS: usize = 1_000;
/// With so many entries in Shadowsocks' list it takes more than a millisecond to take a key back.
const SLOW: usize = 1_000;
/// The rule that keeps those from connecting who are leaving.
const LEAVING: &str = "leaving";
/// A handshake that was accepted with an account which is gone by now has its line in the log after so long.
const LATE_LINE: Duration = Duration::from_millis(50);

/// The users of a running engine.
pub(super) struct Users {
    protocol: Protocol,
    api: Api,
    sessions: Arc<Sessions>,
    gone: Arc<Gone>,
    counting: Counting,
    /// Held during a change: each looks first at what is there.
    nobodies: Mutex<Nobodies>,
}

/// What leads from the users that are there to those that should be.
#[derive(Default)]
pub(super) struct Change {
    pub(super) leave: Vec<String>,
    /// With another account than they have.
    pub(super) change: Vec<User>,
    pub(super) join: Vec<User>,
}

impl Users {
    pub(super) fn new(protocol: Protocol, api: Api, sessions: Arc<Sessions>, gone: Arc<Gone>) -> Self {
        let counting = Counting::new(api.clone());
        Self { protocol, api, sessions, gone, counting, nobodies: Mutex::default() }
    }

    /// Exactly these, and no session of anybody else.
    pub(super) async fn converge(&self, users: &[EngineUser]) -> Result<Converged, Error> {
        let wanted = accounts(self.protocol, users)?;
        let mut nobodies = self.nobodies.lock().await;
        let tag = self.only_inbound().await?;
        let change = nobodies.compare(wanted, self.api.users(&tag).await?);
        self.sessions.allow_only(nobodies.standing(users.iter().map(|user| user.name.as_str())));
        let converged =
            Converged { added: change.join.len() + change.change.len(), removed: change.leave.len() };
        self.make(&tag, change, &mut nobodies).await?;
        // Of an agent that ended in the middle.
        self.api.remove_rule(LEAVING).await?;
        // Also those who lost access while nobody was looking.
        self.end_sessions(Vec::new()).await?;
        self.counting.only(entries(&nobodies, users).collect()).await;
        Ok(converged)
    }

    /// The engine starts anew.
    pub(super) fn forget(&self) {
        self.counting.forget();
    }

    /// What they have sent and received.
    pub(super) async fn usage(&self) -> Result<Vec<Reading>, Error> {
        self.counting.all().await
    }

    /// These too. Who is there with another account gets this one, and the sessions opened with the old one end.
    pub(super) async fn add(&self, users: &[EngineUser]) -> Result<(), Error> {
        let accounts = accounts(self.protocol, users)?;
        let mut nobodies = self.nobodies.lock().await;
        let (accounts, before) = nobodies.welcome(accounts, |name| self.sessions.allows(name));
        self.counting.come(entries(&nobodies, users));
        let users = accounts;
        if users.is_empty() && before.is_empty() {
            return Ok(());
        }
        let tag = self.inbound().await?;
        self.sessions.allow(users.iter().map(|user| user.email.as_str()));
        let many = self.are_many(&tag, users.len()).await?;
        let taken = if many { users } else { self.join(&tag, users, &mut nobodies).await? };
        if !taken.is_empty() {
            let mut there = by_name(self.api.users(&tag).await?);
            self.make(&tag, Change::between(taken, &mut there), &mut nobodies).await?;
        }
        if before.is_empty() {
            return Ok(());
        }
        self.sessions.forbid(before.iter().map(String::as_str));
        // Another one may have the users by now.
        let tag = self.inbound().await?;
        self.make(&tag, Change { leave: before.clone(), ..Change::default() }, &mut nobodies).await?;
        self.gone.insert(before.iter().map(String::as_str));
        let ended = self.end_old_sessions(before.clone()).await;
        self.counting.leave(&before).await;
        ended
    }

    /// Not these, and none of their sessions.
    pub(super) async fn remove(&self, users: &[UserName]) -> Result<(), Error> {
        let mut nobodies = self.nobodies.lock().await;
        let leave: Vec<String> = users.iter().map(|name| nobodies.part(name.as_str())).collect();
        let left = self.let_go(leave.clone(), &mut nobodies).await;
        self.counting.leave(&leave).await;
        left
    }

    /// Whoever comes with these keys, and with no others, should be there before.
    pub(super) async fn expect(&self, keys: Vec<Key>) -> Result<(), Error> {
        let mut nobodies = self.nobodies.lock().await;
        let late = nobodies.expect(keys);
        if late.is_empty() { Ok(()) } else { self.let_go(late, &mut nobodies).await }
    }

    /// Puts one there who is expected; false where nobody was missing.
    pub(super) async fn learn(&self) -> Result<bool, Error> {
        let mut nobodies = self.nobodies.lock().await;
        let Some(nobody) = nobodies.missing() else { return Ok(false) };
        let tag = self.inbound().await?;
        self.sessions.allow(std::iter::once(nobody.email.as_str()));
        self.api.add_user(&tag, nobody.user()).await?;
        nobodies.waits(nobody);
        Ok(true)
    }

    async fn let_go(&self, leave: Vec<String>, nobodies: &mut Nobodies) -> Result<(), Error> {
        self.sessions.forbid(leave.iter().map(String::as_str));
        let left = self.take_back(&leave, nobodies).await;
        // Whatever the engine said: who may not connect has no session.
        let ended = self.end_sessions(leave.clone()).await;
        self.gone.insert(leave.iter().map(String::as_str));
        ended.and(left)
    }

    async fn take_back(&self, leave: &[String], nobodies: &mut Nobodies) -> Result<(), Error> {
        let tag = self.inbound().await?;
        let change = Change { leave: leave.to_vec(), ..Change::default() };
        let slow = self.protocol == Protocol::Shadowsocks2022 && self.api.count_users(&tag).await? > SLOW;
        if !slow {
            return self.make(&tag, change, nobodies).await;
        }
        let ruled = self.api.set_rule(LEAVING, leave, BLOCKED).await;
        let ended = self.end_sessions(leave.to_vec()).await;
        // Whatever came of the two: the key goes. Where it does not, the rule stays.
        self.make(&tag, change, nobodies).await?;
        ruled.and(ended).and(self.api.remove_rule(LEAVING).await)
    }

    async fn make(&self, tag: &str, change: Change, nobodies: &mut Nobodies) -> Result<(), Error> {
        let leaving = change.leave.len() + change.change.len();
        let changes = leaving + change.join.len();
        if changes == 0 {
            return Ok(());
        }
        let replace = nobodies.placeholders() + leaving > PLACEHOLDERS || self.are_many(tag, changes).await?;
        if replace
            && self.protocol == Protocol::Shadowsocks2022
            && self.replace_inbound(tag, &change, nobodies).await?
        {
            return Ok(());
        }
        let changed: Vec<String> = change.change.iter().map(|user| user.email.clone()).collect();
        self.leave(tag, change.leave.into_iter().chain(changed.iter().cloned()).collect(), nobodies).await?;
        // Sessions of the old account have the same name as those of the new one, so they end in between.
        self.end_old_sessions(changed).await?;
        let taken = self.join(tag, change.join.into_iter().chain(change.change).collect(), nobodies).await?;
        match taken.first() {
            None => Ok(()),
            Some(user) => {
                let message = format!("Xray keeps {} although it removed it", user.email);
                Err(Error::new(Code::RUNTIME_ENGINE_FAILED, message))
            }
        }
    }

    /// Adds users; returns those whose name was taken.
    async fn join(&self, tag: &str, users: Vec<User>, nobodies: &mut Nobodies) -> Result<Vec<User>, Error> {
        if !users.is_empty() {
            nobodies.joined();
        }
        let added = futures::stream::iter(users).map(|user| async move {
            let added = self.api.add_user(tag, user.clone()).await?;
            Ok::<_, Error>((added == Added::NameTaken).then_some(user))
        });
        added.buffer_unordered(AT_ONCE).try_filter_map(|taken| async { Ok(taken) }).try_collect().await
    }

    async fn leave(&self, tag: &str, names: Vec<String>, nobodies: &mut Nobodies) -> Result<(), Error> {
        match self.protocol {
            Protocol::Shadowsocks2022 => {
                for name in names {
                    if !nobodies.end_the_list() {
                        let placeholder = Nobody::placeholder()?;
                        self.api.add_user(tag, placeholder.user()).await?;
                        nobodies.placed();
                    }
                    if self.api.remove_user(tag, &name).await? {
                        nobodies.left();
                    }
                }
                Ok(())
            }
            _ => {
                let leave = futures::stream::iter(names);
                let leave = leave.map(|name| async move { self.api.remove_user(tag, &name).await.map(drop) });
                leave.buffer_unordered(AT_ONCE).try_collect().await
            }
        }
    }

    /// Whether so many changes are made by a new inbound.
    async fn are_many(&self, tag: &str, changes: usize) -> Result<bool, Error> {
        if self.protocol != Protocol::Shadowsocks2022 || changes < 2 {
            return Ok(false);
        }
        Ok(changes * (self.api.count_users(tag).await? + changes / 2) > KEYS_READ)
    }

    /// Puts an inbound with the change made in the place of this one; false where it would be too large for one
    /// message, which 25,000 users are.
    async fn replace_inbound(
        &self,
        tag: &str,
        change: &Change,
        nobodies: &mut Nobodies,
    ) -> Result<bool, Error> {
        let not_understood = || {
            let message = "Xray describes its own inbound in a way that is not understood".to_owned();
            Error::new(Code::RUNTIME_ENGINE_FAILED, message)
        };
        let mut inbound = self.api.inbound(tag).await?.ok_or_else(not_understood)?;
        let proxy = inbound.proxy.take().filter(|proxy| proxy.name == ShadowsocksServer::NAME);
        let proxy = proxy.and_then(|proxy| ShadowsocksServer::decode(proxy.value.as_slice()).ok());
        let mut server = proxy.ok_or_else(not_understood)?;

        let gone: HashSet<&str> = change
            .leave
            .iter()
            .chain(change.change.iter().map(|user| &user.email))
            .map(String::as_str)
            .collect();
        let stay = nobodies.users_of(self.api.users(tag).await?);
        let stay = stay.filter(|user| !gone.contains(user.email.as_str()));
        let come = change.join.iter().chain(&change.change).cloned();
        let (waiting, placeholder) = (nobodies.all_waiting(), Nobody::placeholder()?);
        let last = waiting.iter().chain([&placeholder]).map(Nobody::user);
        server.users = stay.chain(come).chain(last).collect();
        self.sessions.allow(waiting.iter().map(|nobody| nobody.email.as_str()));

        inbound.proxy = Some(Typed::new(&server));
        inbound.tag = next_tag(tag);
        let new = inbound.tag.clone();
        match self.api.add_inbound(inbound).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                // One that could not listen is there all the same.
                let _ = self.api.remove_inbound(&new).await;
                return Err(error);
            }
        }
        self.api.remove_inbound(tag).await?;
        nobodies.replaced(waiting);
        self.end_old_sessions(change.change.iter().map(|user| user.email.clone()).collect()).await?;
        Ok(true)
    }

    /// The tag of the inbound that has the users.
    async fn inbound(&self) -> Result<String, Error> {
        match self.protocol {
            Protocol::Shadowsocks2022 => self.only_inbound().await,
            // It is never replaced.
            _ => Ok(INBOUND.to_owned()),
        }
    }

    /// The newest of them; older ones that an agent which ended in the middle left behind are removed.
    async fn only_inbound(&self) -> Result<String, Error> {
        let mut tags: Vec<(u64, String)> =
            self.api.tags().await?.into_iter().filter_map(|tag| Some((generation(&tag)?, tag))).collect();
        tags.sort();
        let Some((_, newest)) = tags.pop() else {
            return Err(Error::new(Code::RUNTIME_ENGINE_FAILED, "Xray has no inbound for users".to_owned()));
        };
        for (_, old) in tags {
            self.api.remove_inbound(&old).await?;
        }
        Ok(newest)
    }

    /// Ends sessions of users who have another account now.
    async fn end_old_sessions(&self, users: Vec<String>) -> Result<(), Error> {
        if users.is_empty() {
            return Ok(());
        }
        self.end_sessions(users.clone()).await?;
        tokio::time::sleep(LATE_LINE).await;
        self.end_sessions(users).await
    }

    async fn end_sessions(&self, users: Vec<String>) -> Result<(), Error> {
        let sessions = Arc::clone(&self.sessions);
        blocking(move || sessions.end(&users.iter().map(String::as_str).collect())).await
    }
}

impl Change {
    /// What leads to these users; of those that are there, the ones who are not among them are left in `there`.
    fn between(wanted: Vec<User>, there: &mut HashMap<String, Option<Typed>>) -> Self {
        let mut change = Self::default();
        for user in wanted {
            match there.remove(&user.email) {
                None => change.join.push(user),
                Some(account) if same(account.as_ref(), user.account.as_ref()) => {}
                Some(_) => change.change.push(user),
            }
        }
        change
    }
}

/// The entries under which users stand.
fn entries(nobodies: &Nobodies, users: &[EngineUser]) -> impl Iterator<Item = (String, UserId)> {
    users.iter().map(|user| (nobodies.entry_of(user.name.as_str()).to_owned(), user.id))
}

fn accounts(protocol: Protocol, users: &[EngineUser]) -> Result<Vec<User>, Error> {
    users
        .iter()
        .map(|user| {
            let account = match (protocol, &user.secret) {
                (Protocol::VlessReality, UserSecret::VlessReality(id)) => {
                    let id = Uuid::from_bytes(**id).to_string();
                    Typed::new(&VlessAccount { id, flow: FLOW.to_owned() })
                }
                (Protocol::Shadowsocks2022, UserSecret::Shadowsocks2022(key)) => {
                    Typed::new(&ShadowsocksAccount { key: STANDARD.encode(key.as_slice()) })
                }
                _ => return Err(wrong_secret(&user.name)),
            };
            Ok(User { email: user.name.to_string(), account: Some(account) })
        })
        .collect()
}

/// Whether two accounts let in the same client. Xray's answer says more than we asked for, so bytes don't tell.
pub(super) fn same(one: Option<&Typed>, other: Option<&Typed>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    if one.name != other.name {
        return false;
    }
    let (one_bytes, other_bytes) = (one.value.as_slice(), other.value.as_slice());
    match one.name.as_str() {
        VlessAccount::NAME => VlessAccount::decode(one_bytes).ok() == VlessAccount::decode(other_bytes).ok(),
        ShadowsocksAccount::NAME => {
            ShadowsocksAccount::decode(one_bytes).ok() == ShadowsocksAccount::decode(other_bytes).ok()
        }
        _ => one_bytes == other_bytes,
    }
}

fn by_name(users: Vec<User>) -> HashMap<String, Option<Typed>> {
    users.into_iter().map(|user| (user.email, user.account)).collect()
}

/// How often the inbound with this tag was replaced; none where it is another inbound.
fn generation(tag: &str) -> Option<u64> {
    match tag.strip_prefix(INBOUND)? {
        "" => Some(0),
        rest => rest.strip_prefix('-')?.parse().ok(),
    }
}

fn next_tag(tag: &str) -> String {
    format!("{INBOUND}-{}", generation(tag).unwrap_or_default() + 1)
}
