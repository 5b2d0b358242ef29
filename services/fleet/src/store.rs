//! The buckets `vpn_nodes` and `vpn_servers`, and both in memory.
//!
//! A change of the servers is decided on all of them (who holds a port?), so it is guarded by the revision of the
//! whole bucket: the server refuses it where anything changed after what it was decided on, whichever replica
//! did, and it is decided anew. In one process a lock puts changes in line, so that they do not refuse each other.

use std::sync::RwLockReadGuard;

use bus::{Bucket, Bus, Entry, Shutdown, View, bucket::WriteError};
use contract::{
    Error as Refusal, NodeName, State,
    fleet::{Node, NodeEvent, Server, ServerEvent},
};
use tokio::sync::Mutex;

use crate::{
    config::CONFLICTS_MAX,
    error::Error,
    placement::{Nodes, Servers},
};

/// What a change of the servers comes down to.
pub(crate) enum Step {
    /// This is the server's state from now on.
    Write(Server, ServerEvent),
    /// The server is gone.
    Delete(Server),
    /// It is as it should be.
    Keep(Server),
}

/// A decision, and what it was made on.
pub(crate) struct Decided<T> {
    /// The decision.
    pub(crate) decision: T,
    /// The revision of the servers' bucket.
    servers: u64,
}

/// Nodes and servers.
pub(crate) struct Store {
    node_bucket: Bucket<Node>,
    node_view: View<Node>,
    announcing: Mutex<()>,
    server_bucket: Bucket<Server>,
    server_view: View<Server>,
    changing: Mutex<()>,
}

impl Store {
    /// Opens both buckets and reads them.
    pub(crate) async fn open(bus: &Bus, shutdown: &Shutdown) -> Result<Self, Refusal> {
        let (node_bucket, server_bucket) = tokio::try_join!(bus.own(), bus.own())?;
        let (node_view, server_view) =
            tokio::try_join!(View::open(&node_bucket, shutdown), View::open(&server_bucket, shutdown))?;
        Ok(Self {
            node_bucket,
            node_view,
            announcing: Mutex::default(),
            server_bucket,
            server_view,
            changing: Mutex::default(),
        })
    }

    /// The nodes, by name.
    pub(crate) fn nodes(&self) -> RwLockReadGuard<'_, Nodes> {
        self.node_view.read()
    }

    /// The servers, by name.
    pub(crate) fn servers(&self) -> RwLockReadGuard<'_, Servers> {
        self.server_view.read()
    }

    /// Changes a node on top of whatever came in between; `decide` gets it as it is and returns what it becomes,
    /// or none to leave it. Says whether it was changed; then a read shows it.
    pub(crate) async fn change_node(
        &self,
        name: &NodeName,
        decide: impl Fn(Option<&Node>) -> Option<(Node, NodeEvent)>,
    ) -> Result<bool, Refusal> {
        let _in_line = self.announcing.lock().await;
        for _ in 0..CONFLICTS_MAX {
            let entry = self.node_bucket.get(name.as_str()).await?;
            let Entry { value, revision } = entry.unwrap_or(Entry { value: None, revision: 0 });
            let Some((node, event)) = decide(value.as_ref()) else { return Ok(false) };
            match self.node_bucket.write(&node.key(), Some(&node), event, revision).await {
                Ok(revision) => {
                    self.node_view.caught_up(revision).await;
                    return Ok(true);
                }
                Err(WriteError::Conflict) => {}
                Err(WriteError::Failed(error)) => return Err(error),
            }
        }
        Err(WriteError::Conflict.into())
    }

    /// What `decide` says of nodes and servers as they are. A view may be milliseconds behind another replica's
    /// change, so a refusal counts only where nothing has changed since what it was decided on.
    pub(crate) async fn decide<T>(
        &self,
        mut decide: impl FnMut(&Nodes, &Servers) -> Result<T, Error>,
    ) -> Result<Decided<T>, Error> {
        for _ in 0..CONFLICTS_MAX {
            // First the revisions, then the content: what comes in between is noticed, at worst twice.
            let (nodes, servers) = (self.node_view.revision(), self.server_view.revision());
            let refusal = match decide(&self.nodes(), &self.servers()) {
                Ok(decision) => return Ok(Decided { decision, servers }),
                Err(refusal) => refusal,
            };
            let now = tokio::try_join!(self.node_bucket.revision(), self.server_bucket.revision())?;
            if now == (nodes, servers) {
                return Err(refusal);
            }
            tokio::join!(self.node_view.caught_up(now.0), self.server_view.caught_up(now.1));
        }
        Err(Refusal::from(WriteError::Conflict).into())
    }

    /// Changes one server. Returns it as it is now, or as a deleted one was; then a read shows it.
    pub(crate) async fn change_server(
        &self,
        mut decide: impl FnMut(&Nodes, &Servers) -> Result<Step, Error>,
    ) -> Result<Server, Error> {
        let _in_line = self.changing.lock().await;
        for _ in 0..CONFLICTS_MAX {
            let Decided { decision, servers: last } = self.decide(&mut decide).await?;
            let (server, stored, event) = match decision {
                Step::Keep(server) => return Ok(server),
                Step::Write(server, event) => (server.clone(), Some(server), event),
                Step::Delete(server) => (server, None, ServerEvent::Deleted),
            };
            match self.server_bucket.write_after(&server.key(), stored.as_ref(), event, last).await {
                Ok(revision) => {
                    self.server_view.caught_up(revision).await;
                    return Ok(server);
                }
                Err(WriteError::Conflict) => self.server_view.caught_up(last + 1).await,
                Err(WriteError::Failed(error)) => return Err(error.into()),
            }
        }
        Err(Refusal::from(WriteError::Conflict).into())
    }
}
