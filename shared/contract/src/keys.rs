//! Credentials: what one user needs for one protocol, and what a server needs for its own. Private parts
//! are always [`Sealed`].
//!
//! Buckets: `vpn_credentials` (key: user name), `vpn_server_keys` (key: server name), `vpn_grants` (key:
//! node name), `vpn_prekeys` (key: protocol).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Bucket, NodeName, Protocol, Request, ServerName, State, Subject, Timestamp, UserName, WireguardAddress,
    fleet::ServerId, message::events, users::UserId,
};

/// A private part, encrypted and authenticated (XChaCha20-Poly1305), bound to whose it is and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(
    /// Standard base64 of a 24-byte nonce and the ciphertext with its tag.
    pub String,
);

impl Sealed {
    /// What a user's secret for a protocol is bound to, so that it opens in its own place only.
    pub fn of_user(user: UserId, generation: u32, protocol: Protocol) -> String {
        format!("user/{}/{generation}/{protocol}", user.0)
    }

    /// What a user's own WireGuard key is bound to, which only `keys` opens.
    pub fn of_user_alone(user: UserId, generation: u32) -> String {
        format!("user/{}/{generation}/wireguard-private", user.0)
    }

    /// What keys that have no owner yet are bound to.
    pub fn of_prekeys(protocol: Protocol) -> String {
        format!("prekeys/{protocol}")
    }

    /// What a server's secret is bound to.
    pub fn of_server(server: ServerId, protocol: Protocol) -> String {
        format!("server/{}/{protocol}", server.0)
    }
}

/// All credentials of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Whose.
    pub user: UserName,
    /// Whose, for all time: credentials of an earlier user of that name are never taken for these.
    pub user_id: UserId,
    /// 1 at first, one more with every rotation.
    pub generation: u32,
    /// VLESS: the UUID, sealed to the nodes that serve the protocol.
    pub vless_reality: Sealed,
    /// Shadowsocks 2022: the user's 16-byte key, sealed likewise.
    pub shadowsocks_2022: Sealed,
    /// WireGuard.
    pub wireguard: WireguardCredential,
    /// When they were made.
    pub issued_at: Timestamp,
}

/// WireGuard's part of [`Credentials`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardCredential {
    /// The user's public key, standard base64.
    pub public_key: String,
    /// The key shared with the servers (32 bytes), sealed to the nodes that serve the protocol.
    pub preshared_key: Sealed,
    /// The user's private key (32 bytes), sealed to `keys` alone: only the user's own link holds it.
    pub private_key: Sealed,
    /// The user's addresses inside the tunnel.
    pub address: WireguardAddress,
}

events! {
    /// What can happen to credentials.
    pub enum CredentialsEvent {
        /// They were made.
        Issued = "keys.issued",
        /// They were replaced; the old ones are void.
        Rotated = "keys.rotated",
        /// They are gone with their user.
        Revoked = "keys.revoked",
    }
}

impl State for Credentials {
    const BUCKET: Bucket = Bucket { name: "vpn_credentials", owner: "keys", history: 8 };
    type Event = CredentialsEvent;

    fn key(&self) -> String {
        self.user.to_string()
    }
}

/// The key material of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeys {
    /// Whose.
    pub server: ServerName,
    /// Whose, for all time.
    pub server_id: ServerId,
    /// What clients must know.
    pub public: ServerPublic,
    /// The private key (REALITY, WireGuard) or the server's pre-shared key (Shadowsocks 2022), sealed to the
    /// nodes that serve the protocol.
    pub private: Sealed,
    /// When they were made.
    pub issued_at: Timestamp,
}

/// The public part of [`ServerKeys`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "protocol")]
pub enum ServerPublic {
    /// REALITY.
    #[serde(rename = "vless-reality")]
    VlessReality {
        /// x25519, base64url without padding.
        public_key: String,
        /// 8 bytes, hex.
        short_id: String,
    },
    /// Shadowsocks 2022 has nothing public.
    #[serde(rename = "shadowsocks-2022")]
    Shadowsocks2022,
    /// WireGuard.
    #[serde(rename = "wireguard")]
    Wireguard {
        /// x25519, standard base64.
        public_key: String,
    },
}

events! {
    /// What can happen to a server's keys.
    pub enum ServerKeysEvent {
        /// They were made.
        Issued = "keys.server_issued",
        /// They are gone with their server.
        Revoked = "keys.server_revoked",
    }
}

impl State for ServerKeys {
    const BUCKET: Bucket = Bucket { name: "vpn_server_keys", owner: "keys", history: 8 };
    type Event = ServerKeysEvent;

    fn key(&self) -> String {
        self.server.to_string()
    }
}

/// What lets a node open the private parts of the protocols that it serves: one delivery key a protocol,
/// each in a box (nkeys curve keys, `crypto_box`) that only this node opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// To whom.
    pub node: NodeName,
    /// The node's public curve key (`X…`) that the boxes are made for.
    pub curve_key: String,
    /// The public curve key of `keys`, which the node checks the boxes against.
    pub sender: String,
    /// The boxes, standard base64.
    pub boxes: BTreeMap<Protocol, String>,
}

events! {
    /// What can happen to a grant.
    pub enum GrantEvent {
        /// The node may open more, or opens it with another key.
        Given = "keys.granted",
        /// The node may open nothing any more.
        Withdrawn = "keys.grant_withdrawn",
    }
}

impl State for Grant {
    const BUCKET: Bucket = Bucket { name: "vpn_grants", owner: "keys", history: 8 };
    type Event = GrantEvent;

    fn key(&self) -> String {
        self.node.to_string()
    }
}

/// The keys that the next users of Shadowsocks get, so that engines can know them before: with many users they take
/// long to learn a key. A hint and no more: who gets another key is let in as well, only later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prekeys {
    /// [`Self::PROTOCOL`].
    pub protocol: Protocol,
    /// One after the other in the order in which they are given, sealed as one to the nodes that serve the protocol.
    /// Each is nobody's, or that of a user whose credentials stand.
    pub keys: Sealed,
}

impl Prekeys {
    /// The only protocol whose engines need it.
    pub const PROTOCOL: Protocol = Protocol::Shadowsocks2022;
    /// The length of a key in bytes.
    pub const KEY: usize = 16;
}

events! {
    /// What can happen to keys without an owner.
    pub enum PrekeysEvent {
        /// There are new ones.
        Made = "keys.prekeys_made",
    }
}

impl State for Prekeys {
    const BUCKET: Bucket = Bucket { name: "vpn_prekeys", owner: "keys", history: 1 };
    type Event = PrekeysEvent;

    fn key(&self) -> String {
        self.protocol.to_string()
    }
}

/// Replaces a user's credentials: links made before are void, and open connections end.
///
/// Subject `vpn.keys.rotate`. Errors: `keys.not_issued`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Whose.
    pub user: UserName,
}

/// What came of a [`Rotate`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rotated {
    /// Whose.
    pub user: UserName,
    /// The generation that holds now.
    pub generation: u32,
}

impl Request for Rotate {
    const SUBJECT: Subject = Subject::change("keys", "rotate");
    type Reply = Rotated;
}

/// Makes the links of a user: one for each server, or for the named one.
///
/// Subject `vpn.keys.link`. Errors: `users.not_found`, `fleet.server_not_found`, `keys.not_issued`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Whose.
    pub user: UserName,
    /// For which server; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerName>,
}

/// The links of one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Links {
    /// Whose.
    pub user: UserName,
    /// By server name.
    pub links: Vec<ServerLink>,
}

/// What a client imports for one server.
#[derive(Clone, Serialize, Deserialize)]
pub struct ServerLink {
    /// Which.
    pub server: ServerName,
    /// How.
    pub protocol: Protocol,
    /// `vless://…`, `ss://…` or a WireGuard file. Holds the user's secret.
    pub link: String,
}

impl std::fmt::Debug for ServerLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerLink({} for {}, secret)", self.protocol, self.server)
    }
}

impl Request for Link {
    const SUBJECT: Subject = Subject::read("keys", "link");
    type Reply = Links;
}

/// Counts what has been issued.
///
/// Subject `vpn.keys.status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {}

/// What [`Status`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeysStatus {
    /// Users with credentials.
    pub users: u64,
    /// Servers with keys.
    pub servers: u64,
    /// Nodes that may open something.
    pub nodes: u64,
    /// The public curve key of the service, which comes from its master key.
    pub curve_key: String,
}

impl Request for Status {
    const SUBJECT: Subject = Subject::read("keys", "status");
    type Reply = KeysStatus;
}
