//! What really runs: instances (bucket `vpn_instances`, key `<node>.<server>`), what a node can be asked, and
//! the stream of container events.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Bucket, Error, HostPort, NodeName, Protocol, Request, ServerName, State, Stream, Streamed, Subject,
    Timestamp, fleet::ServerId, message::events,
};

/// What runs for a server on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Where.
    pub node: NodeName,
    /// For which server.
    pub server: ServerName,
    /// For which server, for all time.
    pub server_id: ServerId,
    /// What it speaks.
    pub protocol: Protocol,
    /// What runs it: `docker`, `containerd` or `process`.
    pub backend: String,
    /// How it is.
    pub state: InstanceState,
    /// When that began.
    pub since: Timestamp,
}

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum InstanceState {
    /// It is being made, or waits for its keys.
    Starting,
    /// Its engine answers and has its users.
    Running,
    /// It is stopped because it should be.
    Stopped,
    /// It does not run although it should; the node keeps trying.
    Failed {
        /// Why.
        error: Error,
    },
}

impl InstanceState {
    /// The word for tables.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
        }
    }
}

events! {
    /// What can happen to an instance.
    pub enum InstanceEvent {
        /// It changed its state.
        Changed = "runtime.instance_changed",
        /// It is gone.
        Removed = "runtime.instance_removed",
    }
}

impl Instance {
    /// The key of a server's instance on a node, also where there is none any more.
    pub fn key_of(node: &NodeName, server: &ServerName) -> String {
        format!("{node}.{server}")
    }
}

impl State for Instance {
    const BUCKET: Bucket = Bucket { name: "vpn_instances", owner: "runtime", history: 16 };
    type Event = InstanceEvent;

    fn key(&self) -> String {
        Self::key_of(&self.node, &self.server)
    }
}

/// Reads the instances, by node and server.
///
/// Subject `vpn.runtime.list`. Any node answers, from the bucket.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListInstances {}

/// What [`ListInstances`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instances {
    /// By node and server.
    pub instances: Vec<Instance>,
}

impl Request for ListInstances {
    const SUBJECT: Subject = Subject::read("runtime", "list");
    type Reply = Instances;
}

/// Asks a node whether a site can be a REALITY dest: TLS 1.3 with X25519, seen from there.
///
/// Subject `vpn.runtime.probe_dest.<node>`. Errors: `fleet.dest_not_tls13`, `runtime.target_unreachable`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeDest {
    /// Which node.
    pub node: NodeName,
    /// The site.
    pub dest: HostPort,
    /// The server name to ask for.
    pub server_name: String,
}

/// What [`ProbeDest`] answers when the site will do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DestProbed {
    /// How long the handshake took, in milliseconds.
    pub handshake_millis: u64,
}

impl Request for ProbeDest {
    const SUBJECT: Subject = Subject::read("runtime", "probe_dest").per_node();
    type Reply = DestProbed;

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }
}

/// Asks a node what it is made of and what it cannot do.
///
/// Subject `vpn.runtime.inspect.<node>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Which node.
    pub node: NodeName,
}

/// What [`Inspect`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeReport {
    /// Which node.
    pub node: NodeName,
    /// One line for each thing that was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, and what to do if it is not.
    pub detail: String,
}

impl Request for Inspect {
    const SUBJECT: Subject = Subject::read("runtime", "inspect").per_node();
    type Reply = NodeReport;

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }
}

/// What happened to a container (or supervised process), as it goes over `vpn.event.<node>.<server>.<kind>`.
///
/// Versions are appended, never changed: postcard tells them apart by their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerEvent {
    /// The first.
    V1(ContainerEventV1),
}

/// Version 1 of [`ContainerEvent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEventV1 {
    /// What names the event alone.
    pub id: Uuid,
    /// Where.
    pub node: NodeName,
    /// For which server.
    pub server: ServerName,
    /// What happened.
    pub kind: ContainerEventKind,
    /// When, in milliseconds since 1970 UTC, by the node's clock.
    pub at_millis: i64,
    /// Nobody saw it: it was found out afterwards, when it happened before then.
    pub inferred: bool,
}

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerEventKind {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended, with this exit code; -1 when its end was seen, but not its code.
    Exited(i32),
    /// It is gone.
    Removed,
}

impl ContainerEventKind {
    /// The last token of the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Exited(_) => "exited",
            Self::Removed => "removed",
        }
    }
}

impl Streamed for ContainerEvent {
    const STREAM: Stream = Stream {
        name: "vpn_events",
        subjects: "vpn.event.>",
        max_age_seconds: 7 * 24 * 3600,
        max_bytes: 256 * 1024 * 1024,
    };

    fn subject(&self) -> String {
        let Self::V1(event) = self;
        format!("vpn.event.{}.{}.{}", event.node, event.server, event.kind.as_str())
    }

    fn id(&self) -> String {
        let Self::V1(event) = self;
        event.id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of shipped versions. A change here breaks every reader in the field: append a version instead.
    #[test]
    fn golden_bytes() {
        let event = ContainerEvent::V1(ContainerEventV1 {
            id: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            node: "n1".parse().unwrap(),
            server: "s1".parse().unwrap(),
            kind: ContainerEventKind::Exited(-1),
            at_millis: 1_000,
            inferred: true,
        });
        let golden = b"\x00\x10\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x02n1\x02s1\x02\x01\xd0\x0f\x01";
        assert_eq!(postcard::to_allocvec(&event).unwrap(), golden);
        assert_eq!(postcard::from_bytes::<ContainerEvent>(golden).unwrap(), event);
    }
}
