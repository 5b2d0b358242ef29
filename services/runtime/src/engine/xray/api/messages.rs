//! Xray's messages, as far as they are used: fields by the numbers of 26.3's `.proto` files.
//!
//! Those that hold secrets have no `Debug` that shows them.

use std::fmt;

/// Anything, with the name of its type.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(in super::super) struct Typed {
    #[prost(string, tag = "1")]
    pub(in super::super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(in super::super) value: Vec<u8>,
}

impl Typed {
    pub(in super::super) fn new<M: Named>(message: &M) -> Self {
        Self { name: M::NAME.to_owned(), value: message.encode_to_vec() }
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Typed({}, {} bytes)", self.name, self.value.len())
    }
}

/// A message that goes inside a [`Typed`].
pub(in super::super) trait Named: prost::Message {
    const NAME: &str;
}

macro_rules! named {
    ($($message:ident = $name:literal;)+) => {
        $(impl Named for $message {
            const NAME: &str = $name;
        })+
    };
}

named! {
    AddUser = "xray.app.proxyman.command.AddUserOperation";
    RemoveUser = "xray.app.proxyman.command.RemoveUserOperation";
    VlessAccount = "xray.proxy.vless.Account";
    ShadowsocksAccount = "xray.proxy.shadowsocks_2022.Account";
    ShadowsocksServer = "xray.proxy.shadowsocks_2022.MultiUserServerConfig";
    Routing = "xray.app.router.Config";
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct User {
    #[prost(string, tag = "2")]
    pub(in super::super) email: String,
    #[prost(message, optional, tag = "3")]
    pub(in super::super) account: Option<Typed>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(in super::super) struct VlessAccount {
    #[prost(string, tag = "1")]
    pub(in super::super) id: String,
    #[prost(string, tag = "2")]
    pub(in super::super) flow: String,
}

impl fmt::Debug for VlessAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VlessAccount(secret)")
    }
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(in super::super) struct ShadowsocksAccount {
    #[prost(string, tag = "1")]
    pub(in super::super) key: String,
}

impl fmt::Debug for ShadowsocksAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShadowsocksAccount(secret)")
    }
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(in super::super) struct ShadowsocksServer {
    #[prost(string, tag = "1")]
    pub(in super::super) method: String,
    #[prost(string, tag = "2")]
    pub(in super::super) key: String,
    #[prost(message, repeated, tag = "3")]
    pub(in super::super) users: Vec<User>,
    #[prost(int32, repeated, tag = "4")]
    pub(in super::super) network: Vec<i32>,
}

impl fmt::Debug for ShadowsocksServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShadowsocksServer({} users, secret)", self.users.len())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct AddUser {
    #[prost(message, optional, tag = "1")]
    pub(in super::super) user: Option<User>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct RemoveUser {
    #[prost(string, tag = "1")]
    pub(in super::super) email: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct Inbound {
    #[prost(string, tag = "1")]
    pub(in super::super) tag: String,
    #[prost(message, optional, tag = "2")]
    pub(in super::super) receiver: Option<Typed>,
    #[prost(message, optional, tag = "3")]
    pub(in super::super) proxy: Option<Typed>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AlterInbound {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(message, optional, tag = "2")]
    pub(super) operation: Option<Typed>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AddInbound {
    #[prost(message, optional, tag = "1")]
    pub(super) inbound: Option<Inbound>,
}

/// `RemoveInboundRequest` and `GetInboundUserRequest`, as they are used here.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tag {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListInbounds {
    #[prost(bool, tag = "1")]
    pub(super) only_tags: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Inbounds {
    #[prost(message, repeated, tag = "1")]
    pub(super) inbounds: Vec<Inbound>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Users {
    #[prost(message, repeated, tag = "1")]
    pub(super) users: Vec<User>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Count {
    #[prost(int64, tag = "1")]
    pub(super) count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatName {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// `QueryStatsRequest`: counters whose name contains the pattern.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatPattern {
    #[prost(string, tag = "1")]
    pub(super) pattern: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Stat {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "2")]
    pub(super) value: i64,
}

/// `GetStatsResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OneStat {
    #[prost(message, optional, tag = "1")]
    pub(super) stat: Option<Stat>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Stats {
    #[prost(message, repeated, tag = "1")]
    pub(super) stats: Vec<Stat>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OnlineAddresses {
    /// When each was last seen, in seconds since 1970.
    #[prost(btree_map = "string, int64", tag = "2")]
    pub(super) addresses: std::collections::BTreeMap<String, i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OnlineUsers {
    #[prost(string, repeated, tag = "1")]
    pub(super) counters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Routing {
    #[prost(message, repeated, tag = "2")]
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Rule {
    #[prost(string, tag = "1")]
    pub(super) outbound: String,
    #[prost(string, repeated, tag = "7")]
    pub(super) emails: Vec<String>,
    #[prost(string, tag = "19")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AddRule {
    #[prost(message, optional, tag = "1")]
    pub(super) routing: Option<Typed>,
    #[prost(bool, tag = "2")]
    pub(super) append: bool,
}

/// `RemoveRuleRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RuleName {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// What a call answers that only succeeds, and what one asks that needs no words.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Done {}
