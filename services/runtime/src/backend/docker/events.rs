//! The daemon's event stream as notices, over its restarts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bollard::{models::EventMessage, query_parameters::EventsOptions};
use contract::{NodeName, runtime::ContainerEventKind};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::{Error, Notice, Outbox, UNKNOWN_EXIT, client::Client, create};

/// Reconnecting: a daemon that was restarted is back within a second or two, and one that is down for longer
/// should cost nothing. A stream that held so long starts the waits anew.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const HELD: Duration = Duration::from_secs(10);

/// Follows the events since that time until nobody listens any more.
pub(super) async fn follow(client: Client, node: NodeName, mut outbox: Outbox, mut since: Duration) {
    let mut waits = waits();
    let mut interrupted = false;
    while !outbox.is_closed() {
        let connected = Instant::now();
        // What the daemon still knows of the time since the last event comes first in the stream; so nothing
        // falls between the gap that is said now and the moment when the stream is open.
        match read(&client, &node, &mut outbox, &mut since, interrupted).await {
            Ok(()) => tracing::info!("the docker event stream ended"),
            Err(error) => tracing::warn!(%error, "no docker event stream"),
        }
        interrupted = true;
        client.forget();
        if connected.elapsed() > HELD {
            waits = self::waits();
        }
        tokio::select! {
            () = outbox.closed() => {}
            () = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)) => {}
        }
    }
}

/// Reads one stream to its end, or until nobody listens.
async fn read(
    client: &Client,
    node: &NodeName,
    outbox: &mut Outbox,
    since: &mut Duration,
    interrupted: bool,
) -> Result<(), Error> {
    let docker = client.get().await?;
    if interrupted {
        outbox.send(Notice::Gap);
    }
    let mut filters = create::only_of(node);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ["create", "start", "die", "destroy"].map(str::to_owned).to_vec());
    let from = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    let options = EventsOptions { since: Some(from), until: None, filters: Some(filters) };
    let mut events = std::pin::pin!(docker.events(Some(options)));
    loop {
        let event = tokio::select! {
            () = outbox.closed() => return Ok(()),
            event = events.next() => event,
        };
        let Some(event) = event else { return Ok(()) };
        let event =
            event.map_err(|error| super::errors::translate("events", std::path::Path::new(""), error))?;
        if let Some(nanos) = event.time_nano.and_then(|nanos| u64::try_from(nanos).ok()) {
            *since = Duration::from_nanos(nanos.saturating_add(1));
        }
        if let Some(notice) = notice(event) {
            outbox.send(notice);
        }
    }
}

/// `None` for what is none of ours.
fn notice(event: EventMessage) -> Option<Notice> {
    let attributes = event.actor?.attributes?;
    let server = attributes.get(create::SERVER)?.parse().ok()?;
    let kind = match event.action?.as_str() {
        "create" => ContainerEventKind::Created,
        "start" => ContainerEventKind::Started,
        "die" => {
            let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
            ContainerEventKind::Exited(code.unwrap_or(UNKNOWN_EXIT))
        }
        "destroy" => ContainerEventKind::Removed,
        _ => return None,
    };
    Some(Notice::Container { server, kind, traceparent: attributes.get(create::TRACEPARENT).cloned() })
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The daemon is on this host, so its clock is ours.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
