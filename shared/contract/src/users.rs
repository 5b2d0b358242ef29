//! Accounts: who may connect, until when and how much. Bucket `vpn_users`, key: the name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Bucket, ByteCount, Code, Invalid, Note, Request, State, Subject, Tag, Timestamp, UserName,
    message::events,
};

/// At most this many tags on one user.
pub const TAGS_MAX: usize = 32;
/// At most this many users in one page of a list.
pub const PAGE_MAX: u32 = 1000;
/// At most this many users in one atomic batch: what nats-server takes.
pub const BATCH_MAX: usize = 1000;

/// What tells two users of the same name apart, when one came after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub Uuid);

/// A person or device that may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name, alone among the users there are.
    pub name: UserName,
    /// Its identity, alone for all time.
    pub id: UserId,
    /// Whether it may connect, and why not.
    pub state: UserState,
    /// What operators group and filter by.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Tag>,
    /// What operators want to remember.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    /// Bytes in both directions together per period; none means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteCount>,
    /// When the count towards the quota starts again.
    #[serde(default, skip_serializing_if = "Period::is_never")]
    pub quota_reset: Period,
    /// From then on it may not connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The bulk creation that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
}

/// Whether a user may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum UserState {
    /// It may.
    Active,
    /// An operator has stopped it.
    Suspended {
        /// Since when.
        since: Timestamp,
        /// Why, in the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Note>,
    },
    /// Its time is over.
    Expired {
        /// Since when.
        since: Timestamp,
    },
}

impl UserState {
    /// Which of them it is.
    pub fn kind(&self) -> StateKind {
        match self {
            Self::Active => StateKind::Active,
            Self::Suspended { .. } => StateKind::Suspended,
            Self::Expired { .. } => StateKind::Expired,
        }
    }
}

/// The kinds of [`UserState`], for filters and tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// May connect.
    Active,
    /// Stopped by an operator.
    Suspended,
    /// Over.
    Expired,
}

/// How often the count towards a quota starts again, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Never: the quota is for the account's whole life.
    #[default]
    Never,
    /// At midnight.
    Day,
    /// On Monday.
    Week,
    /// On the first of the month.
    Month,
}

impl Period {
    /// Whether there is no reset.
    pub fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

events! {
    /// What can happen to a user.
    pub enum Event {
        /// It came to be.
        Created = "users.created",
        /// Its limits, tags or note changed.
        Updated = "users.updated",
        /// An operator stopped it.
        Suspended = "users.suspended",
        /// It may connect again.
        Resumed = "users.resumed",
        /// Its time ran out.
        Expired = "users.expired",
        /// It is gone.
        Deleted = "users.deleted",
    }
}

impl State for User {
    const BUCKET: Bucket = Bucket { name: "vpn_users", owner: "users", history: 64 };
    type Event = Event;

    fn key(&self) -> String {
        self.name.to_string()
    }
}

/// Creates a user; credentials follow on the bus.
///
/// Subject `vpn.users.create`. Errors: `users.name_invalid`, `users.name_taken`, `users.expiry_past`,
/// `users.quota_invalid`, `users.tag_invalid`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Its name.
    pub name: UserName,
    /// What to group it by; at most [`TAGS_MAX`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Tag>,
    /// What to remember.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    /// Bytes in both directions together per period; none means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteCount>,
    /// When the count starts again.
    #[serde(default, skip_serializing_if = "Period::is_never")]
    pub quota_reset: Period,
    /// RFC 3339, UTC; must lie ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl Create {
    /// A user with no limits.
    pub fn named(name: UserName) -> Self {
        Self {
            name,
            tags: BTreeSet::new(),
            note: None,
            quota: None,
            quota_reset: Period::Never,
            expires_at: None,
        }
    }
}

impl Request for Create {
    const SUBJECT: Subject = Subject::change("users", "create");
    type Reply = User;
}

impl User {
    /// The user that `request` asks for; what a type cannot refuse by itself is refused here.
    pub fn new(request: Create, id: UserId, now: Timestamp) -> Result<Self, Invalid> {
        check_tags(&request.tags)?;
        check_expiry(request.expires_at, now)?;
        Ok(Self {
            name: request.name,
            id,
            state: UserState::Active,
            tags: request.tags,
            note: request.note,
            quota: request.quota,
            quota_reset: request.quota_reset,
            expires_at: request.expires_at,
            created_at: now,
            updated_at: now,
            batch: None,
        })
    }

    /// Whether it may connect.
    pub fn is_active(&self) -> bool {
        self.state == UserState::Active
    }
}

/// Refuses more than [`TAGS_MAX`] tags.
pub fn check_tags(tags: &BTreeSet<Tag>) -> Result<(), Invalid> {
    if tags.len() > TAGS_MAX {
        return Err(Invalid::new(
            Code::USERS_TAG_INVALID,
            &tags.len().to_string(),
            "at most 32 tags fit one user",
        ));
    }
    Ok(())
}

/// Refuses an expiry that does not lie ahead of `now`.
pub fn check_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), Invalid> {
    match expires_at {
        Some(at) if at <= now => {
            Err(Invalid::new(Code::USERS_EXPIRY_PAST, &at.to_string(), &format!("it is {now} now")))
        }
        _ => Ok(()),
    }
}

/// Creates many users: every [`BATCH_MAX`] of them at once or not at all.
///
/// Subject `vpn.users.create_many`. Sent again with the `batch` of the reply, it goes on where it stopped:
/// users which that batch has made already count as created. Errors: those of [`Create`] and
/// `users.batch_invalid`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMany {
    /// The users, in the order in which they are made.
    pub users: Vec<Create>,
    /// The id under which to resume; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
}

/// What came of a [`CreateMany`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedMany {
    /// The id under which to resume.
    pub batch: Uuid,
    /// How many of the users exist now by this batch, those of an earlier try included.
    pub created: u64,
}

impl Request for CreateMany {
    const SUBJECT: Subject = Subject::change("users", "create_many");
    type Reply = CreatedMany;
}

/// Reads one user.
///
/// Subject `vpn.users.get`. Errors: `users.not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// Its name.
    pub name: UserName,
}

impl Request for Get {
    const SUBJECT: Subject = Subject::read("users", "get");
    type Reply = User;
}

/// Reads users, filtered, sorted and by the page.
///
/// Subject `vpn.users.list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateKind>,
    /// Only those with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Only those whose name or note contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// In which order.
    #[serde(default)]
    pub sort: Sort,
    /// The other way round.
    #[serde(default)]
    pub descending: bool,
    /// At most so many; 100 when absent, [`PAGE_MAX`] at most. A reply that would not fit one message holds fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on after this user: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<UserName>,
}

/// Orders of a list; equals stand by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// By name.
    #[default]
    Name,
    /// By creation, the oldest first.
    Created,
    /// By expiry, the nearest first and those without one last.
    Expires,
}

/// A page of users.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page {
    /// The users.
    pub users: Vec<User>,
    /// How many match the filter in all.
    pub total: u64,
    /// What to send as `after` for the next page; none at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<UserName>,
}

impl Request for List {
    const SUBJECT: Subject = Subject::read("users", "list");
    type Reply = Page;
}

/// Changes what it names; `null` takes a limit or note away, what is absent stays.
///
/// Subject `vpn.users.update`. Errors: `users.not_found` and those of [`Create`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Whose.
    pub name: UserName,
    /// All its tags from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<Tag>>,
    /// The note.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub note: Option<Option<Note>>,
    /// The quota in bytes per period.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub quota: Option<Option<ByteCount>>,
    /// When the count starts again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_reset: Option<Period>,
    /// When it ends; an expired user to whom this gives time is active again.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
}

/// Tells a field that is `null` from one that is absent.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Request for Update {
    const SUBJECT: Subject = Subject::change("users", "update");
    type Reply = User;
}

/// Stops a user: no new connections, and the open ones end. Suspending a suspended user changes nothing.
///
/// Subject `vpn.users.suspend`. Errors: `users.not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspend {
    /// Whom.
    pub name: UserName,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Note>,
}

impl Request for Suspend {
    const SUBJECT: Subject = Subject::change("users", "suspend");
    type Reply = User;
}

/// Lets a suspended user connect again; one whose time is over becomes expired. Resuming an active user
/// changes nothing.
///
/// Subject `vpn.users.resume`. Errors: `users.not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Whom.
    pub name: UserName,
}

impl Request for Resume {
    const SUBJECT: Subject = Subject::change("users", "resume");
    type Reply = User;
}

/// Removes a user: its connections end, its credentials are destroyed, its name is free again.
///
/// Subject `vpn.users.delete`. Replies with the user as it was. Errors: `users.not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Whom.
    pub name: UserName,
}

impl Request for Delete {
    const SUBJECT: Subject = Subject::change("users", "delete");
    type Reply = User;
}
