//! Which node may open what. Who serves a protocol gets that protocol's delivery key, in a box of its own.
//!
//! - [`plan`]     pure: servers and nodes -> grants, and what leads there
//! - [`Granting`] recomputes on every change of either, and writes the differences
//!
//! A watch, no feed: grants follow from what is there now, whatever has happened before.

pub mod plan;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus::{Bucket, Change, Origin, Watch, bucket::WriteError, origin::caused_by, watch::causes};
use contract::{
    NodeName, Protocol, ServerName, State,
    fleet::{Node, Server},
    keys::{Grant, GrantEvent},
};
use plan::{Action, Wanted};
use tracing::{Instrument, Span, info_span};

use crate::{Error, keyring::Keyring};

/// Between two tries of grants that could not be written.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Keeps grants in line with servers and nodes.
pub struct Granting {
    bucket: Bucket<Grant>,
    keyring: Arc<Keyring>,
    sender: String,
    servers: BTreeMap<ServerName, (NodeName, Protocol)>,
    nodes: BTreeMap<NodeName, String>,
    held: BTreeMap<NodeName, Grant>,
    /// Of grants, and of the markers of those that were withdrawn.
    revisions: BTreeMap<NodeName, u64>,
}

impl Granting {
    /// Reads the grants that there are.
    pub async fn load(bucket: Bucket<Grant>, keyring: Arc<Keyring>) -> Result<Self, contract::Error> {
        let sender = keyring.curve().public();
        let mut granting = Self {
            bucket,
            keyring,
            sender,
            servers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            held: BTreeMap::new(),
            revisions: BTreeMap::new(),
        };
        granting.reload().await?;
        Ok(granting)
    }

    async fn reload(&mut self) -> Result<(), contract::Error> {
        let mut watch = self.bucket.watch().await?;
        while !watch.is_current() {
            for change in watch.next().await {
                if let Ok(node) = change.key.parse() {
                    self.note(node, change.entry.revision, change.entry.value);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, node: NodeName, revision: u64, grant: Option<Grant>) {
        match grant {
            Some(grant) => self.held.insert(node.clone(), grant),
            None => self.held.remove(&node),
        };
        self.revisions.insert(node, revision);
    }

    /// Follows servers and nodes for ever.
    pub async fn run(mut self, mut servers: Watch<Server>, mut nodes: Watch<Node>) {
        // Half of what there is would withdraw grants that are needed.
        while !servers.is_current() {
            self.fold_servers(servers.next().await);
        }
        while !nodes.is_current() {
            self.fold_nodes(nodes.next().await);
        }
        let mut cause = (Span::current(), None);
        loop {
            let (span, origin) = cause;
            let origin = origin.unwrap_or_else(|| Origin::service("keys"));
            let settled = origin.scope(self.settle()).instrument(span).await;
            let mut again = false;
            if let Err(error) = settled {
                tracing::warn!(%error, "grants are behind; trying again");
                again = true;
            }
            cause = tokio::select! {
                changes = servers.next() => {
                    let cause = cause_of(&changes);
                    self.fold_servers(changes);
                    cause
                }
                changes = nodes.next() => {
                    let cause = cause_of(&changes);
                    self.fold_nodes(changes);
                    cause
                }
                () = tokio::time::sleep(RETRY_AFTER), if again => (Span::current(), None),
            };
        }
    }

    fn fold_servers(&mut self, changes: Vec<Change<Server>>) {
        for change in changes {
            let Ok(name) = change.key.parse() else { continue };
            match change.entry.value {
                Some(server) => self.servers.insert(name, (server.node, server.protocol)),
                None => self.servers.remove(&name),
            };
        }
    }

    fn fold_nodes(&mut self, changes: Vec<Change<Node>>) {
        for change in changes {
            let Ok(name) = change.key.parse() else { continue };
            match change.entry.value {
                Some(node) => self.nodes.insert(name, node.announced.curve_key),
                None => self.nodes.remove(&name),
            };
        }
    }

    /// Writes what is missing or too much. A node whose key is none keeps nobody else from theirs.
    async fn settle(&mut self) -> Result<(), Error> {
        let desired = plan::desired(self.servers.values(), &self.nodes);
        let mut failed = None;
        for action in plan::plan(&desired, &self.held, &self.sender) {
            let (node, grant, event) = match action {
                Action::Withdraw(node) => (node, None, GrantEvent::Withdrawn),
                Action::Give(node, wanted) => match self.boxed(&node, wanted) {
                    Ok(grant) => (node, Some(grant), GrantEvent::Given),
                    Err(error) => {
                        tracing::error!(%node, %error, "a node announces a curve key that is none; it gets no grant");
                        continue;
                    }
                },
            };
            let expected = self.revisions.get(&node).copied().unwrap_or(0);
            match self.bucket.write(node.as_str(), grant.as_ref(), event, expected).await {
                Ok(revision) => self.note(node, revision, grant),
                Err(WriteError::Conflict) => {
                    self.reload().await?;
                    failed = Some(contract::Error::from(WriteError::Conflict));
                }
                Err(WriteError::Failed(error)) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn boxed(&self, node: &NodeName, wanted: Wanted) -> Result<Grant, Error> {
        let curve = self.keyring.curve();
        let boxed = |protocol: Protocol| {
            let sealed = curve.seal(self.keyring.delivery(protocol).as_bytes(), &wanted.curve_key)?;
            Ok((protocol, sealed))
        };
        let boxes = wanted.protocols.iter().copied().map(boxed).collect::<Result<_, Error>>()?;
        Ok(Grant { node: node.clone(), sender: self.sender.clone(), boxes, curve_key: wanted.curve_key })
    }
}

/// The span in which changes are acted on, and who caused them where it is one.
fn cause_of<S: State>(changes: &[Change<S>]) -> (Span, Option<Origin>) {
    let span = info_span!(
        "grant",
        otel.name = format!("follow {}", S::BUCKET.name),
        otel.kind = "consumer",
        vpn.service = "keys",
        messaging.system = "nats",
        messaging.destination.name = S::BUCKET.name,
        messaging.batch.message_count = changes.len(),
    );
    caused_by(&span, &causes(changes));
    let origin = match changes {
        [one] => Some(one.origin()),
        _ => None,
    };
    (span, origin)
}
