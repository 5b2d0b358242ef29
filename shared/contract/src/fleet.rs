//! Nodes and servers: what should run where. Buckets `vpn_nodes` and `vpn_servers`, key: the name.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Bucket, ByteCount, HostPort, ImageRef, NodeName, Port, Protocol, Request, ServerName, State, Subject,
    Timestamp, message::events,
};

/// A node announces itself this often.
pub const HEARTBEAT_MILLIS: u64 = 2_000;
/// A node that was not heard for so long is lost: three heartbeats and some slack.
pub const LOST_AFTER_MILLIS: u64 = 7_000;

/// A host with a `runtime` agent on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What the agent says of itself.
    #[serde(flatten)]
    pub announced: Announce,
    /// Whether it is heard.
    pub presence: Presence,
    /// When it was heard first.
    pub joined_at: Timestamp,
}

/// Whether a node is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Presence {
    /// It is.
    Online,
    /// It is not.
    Lost {
        /// Since when.
        since: Timestamp,
    },
}

events! {
    /// What can happen to a node.
    pub enum NodeEvent {
        /// It was heard for the first time.
        Joined = "fleet.node_joined",
        /// It says something else of itself than before.
        Changed = "fleet.node_changed",
        /// It is not heard any more.
        Lost = "fleet.node_lost",
        /// It is heard again.
        Returned = "fleet.node_returned",
    }
}

impl State for Node {
    const BUCKET: Bucket = Bucket { name: "vpn_nodes", owner: "fleet", history: 16 };
    type Event = NodeEvent;

    fn key(&self) -> String {
        self.announced.node.to_string()
    }
}

/// An agent says that it is there, at its start and every [`HEARTBEAT_MILLIS`].
///
/// Subject `vpn.fleet.announce`. Errors: `request.invalid`, `fleet.limit_reached`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// Who.
    pub node: NodeName,
    /// What links carry: a public name or address.
    pub address: PublicAddress,
    /// The public curve key (`X…`) that private parts are sealed to.
    pub curve_key: String,
    /// What runs its containers: `docker`, `containerd` or `process`.
    pub backend: String,
    /// The backend's version, for people.
    pub backend_version: String,
    /// Logical processors.
    pub cpus: u32,
    /// The version of its `vpnd`.
    pub version: String,
}

/// The name or address at which clients reach a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAddress {
    /// A host name or an address, without a port.
    pub host: String,
    /// Whether somebody configured it.
    pub source: AddressSource,
}

/// Where a [`PublicAddress`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// It was configured.
    Given,
    /// It is the address of the interface with the default route: wrong behind a NAT.
    Detected,
}

/// What [`Announce`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Announced {}

impl Request for Announce {
    const SUBJECT: Subject = Subject::repeated("fleet", "announce");
    type Reply = Announced;
}

/// Reads the nodes, by name.
///
/// Subject `vpn.fleet.list_nodes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListNodes {}

/// What [`ListNodes`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<Node>,
}

impl Request for ListNodes {
    const SUBJECT: Subject = Subject::read("fleet", "list_nodes");
    type Reply = Nodes;
}

/// Reads one node.
///
/// Subject `vpn.fleet.get_node`. Errors: `fleet.node_not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetNode {
    /// Its name.
    pub name: NodeName,
}

impl Request for GetNode {
    const SUBJECT: Subject = Subject::read("fleet", "get_node");
    type Reply = Node;
}

/// What tells two servers of the same name apart, when one came after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub Uuid);

/// The desired state of one VPN server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name, alone among the servers there are.
    pub name: ServerName,
    /// Its identity, alone for all time.
    pub id: ServerId,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: Port,
    /// Where it runs.
    pub node: NodeName,
    /// The image its container is made from; the node's own choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// What REALITY pretends to be; there for `vless-reality` and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<Reality>,
    /// What its instance may use.
    pub resources: Resources,
    /// Private destinations that its users may reach all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<IpNet>,
    /// Whether it should run.
    pub running: bool,
    /// Counts up with every restart that was asked for.
    pub restarts: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a REALITY server pretends to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reality {
    /// The site whose handshake it shows to strangers: must speak TLS 1.3 with X25519.
    pub dest: HostPort,
    /// The server names that clients may ask for: names in the dest's certificate. The first is in links.
    pub server_names: Vec<String>,
}

/// What an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: ByteCount,
    /// Threads and processes.
    pub pids: u32,
}

impl Default for Resources {
    /// Room for 10,000 users and their connections: Xray needs 60 MB for the users, a goroutine pair for each
    /// connection.
    fn default() -> Self {
        Self { memory: ByteCount::clamped(512 * 1024 * 1024), pids: 512 }
    }
}

events! {
    /// What can happen to a server.
    pub enum ServerEvent {
        /// It came to be.
        Created = "fleet.server_created",
        /// Its settings changed.
        Updated = "fleet.server_updated",
        /// It should run.
        Started = "fleet.server_started",
        /// It should not run.
        Stopped = "fleet.server_stopped",
        /// It should start anew.
        Restarted = "fleet.server_restarted",
        /// It is gone.
        Deleted = "fleet.server_deleted",
    }
}

impl State for Server {
    const BUCKET: Bucket = Bucket { name: "vpn_servers", owner: "fleet", history: 64 };
    type Event = ServerEvent;

    fn key(&self) -> String {
        self.name.to_string()
    }
}

/// Creates a server; its keys and its instance follow on the bus.
///
/// Subject `vpn.fleet.create_server`. Errors: `fleet.server_exists`, `fleet.node_not_found`, `fleet.no_node`,
/// `fleet.port_taken`, `fleet.setting_invalid`, `fleet.dest_not_tls13`, `fleet.limit_reached`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateServer {
    /// Its name.
    pub name: ServerName,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: Port,
    /// Where it runs; any node that is heard and has the port free when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The image its container is made from; the node's own choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// What REALITY pretends to be; needed for `vless-reality` and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<Reality>,
    /// What its instance may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Private destinations that its users may reach all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<IpNet>,
}

/// A server, and what to mind about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerReply {
    /// The server.
    pub server: Server,
    /// What could not be checked, in words for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Request for CreateServer {
    const SUBJECT: Subject = Subject::change("fleet", "create_server");
    type Reply = ServerReply;
}

/// Changes what it names; what is absent stays.
///
/// Subject `vpn.fleet.update_server`. Errors: `fleet.server_not_found` and those of [`CreateServer`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateServer {
    /// Which.
    pub name: ServerName,
    /// The port that clients connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// What REALITY pretends to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<Reality>,
    /// What its instance may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// All private destinations that its users may reach from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<Vec<IpNet>>,
}

impl Request for UpdateServer {
    const SUBJECT: Subject = Subject::change("fleet", "update_server");
    type Reply = ServerReply;
}

/// Reads one server.
///
/// Subject `vpn.fleet.get_server`. Errors: `fleet.server_not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetServer {
    /// Its name.
    pub name: ServerName,
}

impl Request for GetServer {
    const SUBJECT: Subject = Subject::read("fleet", "get_server");
    type Reply = Server;
}

/// Reads the servers, by name.
///
/// Subject `vpn.fleet.list_servers`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListServers {
    /// Only those on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
}

/// What [`ListServers`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Servers {
    /// By name.
    pub servers: Vec<Server>,
}

impl Request for ListServers {
    const SUBJECT: Subject = Subject::read("fleet", "list_servers");
    type Reply = Servers;
}

/// Starts, stops or restarts a server.
///
/// Subject `vpn.fleet.run_server`. Errors: `fleet.server_not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunServer {
    /// Which.
    pub name: ServerName,
    /// What to do.
    pub run: Run,
}

/// What [`RunServer`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// It should run.
    Start,
    /// It should not.
    Stop,
    /// It should start anew, which ends its connections.
    Restart,
}

impl Request for RunServer {
    const SUBJECT: Subject = Subject::change("fleet", "run_server");
    type Reply = Server;
}

/// Removes a server with its instance and keys.
///
/// Subject `vpn.fleet.delete_server`. Replies with the server as it was. Errors: `fleet.server_not_found`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteServer {
    /// Which.
    pub name: ServerName,
}

impl Request for DeleteServer {
    const SUBJECT: Subject = Subject::change("fleet", "delete_server");
    type Reply = Server;
}
