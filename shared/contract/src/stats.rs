//! What was used in all: `vpn.stats.*`, folded from the stream `vpn.usage.*`.

use serde::{Deserialize, Serialize};

use crate::{NodeName, Request, ServerName, Subject, Timestamp, UserName, usage::Traffic};

/// At most so many rows in one page.
pub const PAGE_MAX: u32 = 1_000;
/// Rates are those of the last so many seconds.
pub const RATE_OVER_SECONDS: u32 = 10;

/// Reads what a user, a server or a node has sent and received in all.
///
/// Subject `vpn.stats.usage`, such as `{"user":"alice"}`. Errors: `users.not_found`, `stats.not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GetUsage {
    /// Of a user, through all servers.
    User(UserName),
    /// Through a server, by all users.
    Server(ServerName),
    /// Through all servers of a node, those that are gone included.
    Node(NodeName),
}

impl Request for GetUsage {
    const SUBJECT: Subject = Subject::read("stats", "usage");
    type Reply = Total;
}

/// What was sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Total {
    /// In all, in bytes.
    pub traffic: Traffic,
    /// In bytes a second, over the last [`RATE_OVER_SECONDS`].
    pub rate: Traffic,
    /// When something was sent or received last; none where never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
}

/// Reads who used most.
///
/// Subject `vpn.stats.top`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Top {
    /// Of what.
    #[serde(default)]
    pub of: Kind,
    /// By what.
    #[serde(default)]
    pub by: By,
    /// At most so many; 10 when absent, [`PAGE_MAX`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Leaves out so many of the first.
    #[serde(default)]
    pub offset: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Users; those that were deleted included.
    #[default]
    Users,
    /// Servers; those that were deleted included.
    Servers,
    /// Nodes.
    Nodes,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The most bytes in both directions.
    #[default]
    Total,
    /// The most bytes a second now.
    Rate,
}

/// What [`Top`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ranking {
    /// The first of them, the most first.
    pub rows: Vec<Ranked>,
    /// How many there are in all.
    pub total: u64,
}

/// A row of a [`Ranking`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// The name; of a user who was deleted the id.
    pub name: String,
    /// Whether it is there no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// What was sent and received.
    #[serde(flatten)]
    pub total: Total,
}

impl Request for Top {
    const SUBJECT: Subject = Subject::read("stats", "top");
    type Reply = Ranking;
}
