//! What the node says of its instances: the bucket `vpn_instances`, brought up to date whenever the bus is there.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::{
    Bucket, Entry,
    origin::{self, Trace},
};
use contract::{
    Error, NodeName, ServerName, Timestamp,
    fleet::Server,
    runtime::{Instance, InstanceEvent, InstanceState},
};
use tokio::{sync::Notify, time::sleep};
use tracing::{Instrument, info_span};

/// Between two tries to say it, while the bus is away.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What is to be said. Bounded by the servers there are: a later state replaces an earlier one.
pub(crate) struct Reports {
    node: NodeName,
    backend: &'static str,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    last: BTreeMap<ServerName, Instance>,
    unsaid: BTreeMap<ServerName, Unsaid>,
}

struct Unsaid {
    instance: Option<Instance>,
    cause: Trace,
}

impl Reports {
    /// Those of this node.
    pub(crate) fn new(node: NodeName, backend: &'static str) -> Self {
        Self { node, backend, state: Mutex::default(), wake: Notify::new() }
    }

    /// How the instance of a server is now.
    pub(crate) fn state(&self, server: &Server, is: InstanceState) {
        let mut state = self.lock();
        let last = state.last.get(&server.name).filter(|last| last.server_id == server.id);
        if last.is_some_and(|last| last.state == is && last.protocol == server.protocol) {
            return;
        }
        let instance = Instance {
            node: self.node.clone(),
            server: server.name.clone(),
            server_id: server.id,
            protocol: server.protocol,
            backend: self.backend.to_owned(),
            state: is,
            since: Timestamp::now(),
        };
        state.last.insert(server.name.clone(), instance.clone());
        self.say(state, &server.name, Some(instance));
    }

    /// There is no instance of that server any more.
    pub(crate) fn gone(&self, server: &ServerName) {
        let mut state = self.lock();
        state.last.remove(server);
        self.say(state, server, None);
    }

    fn say(&self, mut state: MutexGuard<'_, State>, server: &ServerName, instance: Option<Instance>) {
        let cause = origin::trace_from(origin::traceparent().as_deref());
        state.unsaid.insert(server.clone(), Unsaid { instance, cause });
        drop(state);
        self.wake.notify_one();
    }

    #[cfg(test)]
    pub(crate) fn last(&self, server: &ServerName) -> Option<Instance> {
        self.lock().last.get(server).cloned()
    }

    /// Says it to the bus, for ever.
    pub(crate) async fn publish(&self, bucket: Bucket<Instance>) {
        loop {
            let next = self.lock().unsaid.pop_first();
            let Some((server, unsaid)) = next else {
                self.wake.notified().await;
                continue;
            };
            let span = info_span!("report", otel.name = format!("report {server}"), vpn.service = "runtime");
            origin::caused_by(&span, std::slice::from_ref(&unsaid.cause));
            let written = self.write(&bucket, &server, unsaid.instance.as_ref()).instrument(span).await;
            if let Err(error) = written {
                tracing::debug!(%server, %error, "how the instance is could not be said yet");
                // Unless there is something newer to say by now.
                self.lock().unsaid.entry(server).or_insert(unsaid);
                sleep(RETRY_AFTER).await;
            }
        }
    }

    async fn write(
        &self,
        bucket: &Bucket<Instance>,
        server: &ServerName,
        instance: Option<&Instance>,
    ) -> Result<(), Error> {
        let key = Instance::key_of(&self.node, server);
        let Some(instance) = instance else {
            return bucket.delete(&key, InstanceEvent::Removed).await.map(drop);
        };
        let (found, revision) = match bucket.get(&key).await? {
            Some(Entry { value, revision }) => (value, revision),
            None => (None, 0),
        };
        // An agent that was started again finds what it left; nothing has happened since.
        let same = |found: &Instance| Instance { since: found.since, ..instance.clone() } == *found;
        if found.as_ref().is_some_and(same) {
            return Ok(());
        }
        bucket.write(&key, Some(instance), InstanceEvent::Changed, revision).await?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
