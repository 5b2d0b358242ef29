//! What users send and receive, as nodes count it: the stream `vpn.usage.*`.

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{NodeName, ServerName, Stream, Streamed, fleet::ServerId, users::UserId};

/// At most so many users' traffic in one message: 26 bytes each, and a message of the bus holds a mebibyte.
pub const ENTRIES_MAX: usize = 20_000;

/// Bytes in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// What users sent.
    pub up: u64,
    /// What users received.
    pub down: u64,
}

impl Traffic {
    /// None at all.
    pub const NONE: Self = Self { up: 0, down: 0 };

    /// Both directions together, as quotas count.
    pub fn sum(self) -> u64 {
        self.up.saturating_add(self.down)
    }

    /// What was added since `before`; none where that is more.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { up: self.up.saturating_sub(before.up), down: self.down.saturating_sub(before.down) }
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { up: self.up.saturating_add(other.up), down: self.down.saturating_add(other.down) }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What the users of a node sent and received in an interval, as it goes over `vpn.usage.<node>`.
///
/// Versions are appended, never changed: postcard tells them apart by their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Usage {
    /// The first.
    V1(UsageV1),
}

/// Version 1 of [`Usage`].
///
/// A node numbers its messages; whoever has counted one of a `boot` has counted all of that boot with lower numbers,
/// and counts none of them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageV1 {
    /// Where.
    pub node: NodeName,
    /// The node's memory of what it has counted: another one when that was lost. UUID version 7, so later ones are
    /// larger.
    pub boot: Uuid,
    /// Grows with each message of a boot; 1 or more.
    pub sequence: u64,
    /// When the interval began, in milliseconds since 1970 UTC, by the node's clock.
    pub from_millis: i64,
    /// When it ended.
    pub until_millis: i64,
    /// Servers with traffic; [`ENTRIES_MAX`] users in all of them together.
    pub servers: Vec<ServerUsage>,
}

/// What was sent and received through one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerUsage {
    /// Its name at that time.
    pub server: ServerName,
    /// Which it is.
    pub server_id: ServerId,
    /// By whom, each once.
    pub users: Vec<UserUsage>,
}

/// What one user sent and received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserUsage {
    /// Who.
    pub user: UserId,
    /// How much, since the message before.
    pub traffic: Traffic,
}

impl UsageV1 {
    /// How many entries it has.
    pub fn entries(&self) -> usize {
        self.servers.iter().map(|server| server.users.len()).sum()
    }
}

impl Streamed for Usage {
    const STREAM: Stream = Stream {
        name: "vpn_usage",
        subjects: "vpn.usage.*",
        max_age_seconds: 7 * 24 * 3600,
        max_bytes: 256 * 1024 * 1024,
    };

    fn subject(&self) -> String {
        let Self::V1(usage) = self;
        format!("vpn.usage.{}", usage.node)
    }

    fn id(&self) -> String {
        let Self::V1(usage) = self;
        format!("{}:{}:{}", usage.node, usage.boot.simple(), usage.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of shipped versions. A change here breaks every reader in the field: append a version instead.
    #[test]
    fn golden_bytes() {
        let usage = Usage::V1(UsageV1 {
            node: "n1".parse().unwrap(),
            boot: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            sequence: 300,
            from_millis: 1_000,
            until_millis: 2_000,
            servers: vec![ServerUsage {
                server: "s1".parse().unwrap(),
                server_id: ServerId(Uuid::from_u128(1)),
                users: vec![UserUsage {
                    user: UserId(Uuid::from_u128(2)),
                    traffic: Traffic { up: 1, down: 128 },
                }],
            }],
        });
        let golden: &[u8] = b"\x00\x02n1\x10\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\xac\x02\xd0\x0f\xa0\x1f\
            \x01\x02s1\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x01\x80\x01";
        assert_eq!(postcard::to_allocvec(&usage).unwrap(), golden);
        assert_eq!(postcard::from_bytes::<Usage>(golden).unwrap(), usage);
    }

    #[test]
    fn the_largest_message_fits_the_bus() {
        let users = (0..ENTRIES_MAX)
            .map(|_| UserUsage {
                user: UserId(Uuid::from_u128(u128::MAX)),
                traffic: Traffic { up: u64::MAX, down: u64::MAX },
            })
            .collect();
        let server = ServerUsage {
            server: "s".repeat(64).parse().unwrap(),
            server_id: ServerId(Uuid::from_u128(0)),
            users,
        };
        let usage = Usage::V1(UsageV1 {
            node: "n".repeat(64).parse().unwrap(),
            boot: Uuid::from_u128(u128::MAX),
            sequence: u64::MAX,
            from_millis: i64::MIN,
            until_millis: i64::MAX,
            servers: vec![server],
        });
        assert!(postcard::to_allocvec(&usage).unwrap().len() < 1_000_000);
    }
}
