//! What really runs for a server, and waiting for it.

use std::time::Duration;

use contract::{
    Code, Error, Timestamp,
    fleet::Server,
    runtime::{Instance, InstanceState, ListInstances},
};
use tokio::time::{Instant, sleep};

use crate::context::Context;

/// Between two looks: a start takes hundreds of milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An instance that has failed for so long is reported: the node tries again after 100 ms, and then less often.
const FAILED_FOR: Duration = Duration::from_secs(3);

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// It runs, and has begun to after the state that began then.
    Running {
        /// When the state began that does not count.
        after: Option<Timestamp>,
    },
    /// It does not run.
    Stopped,
}

/// All instances.
pub(crate) async fn all(ctx: &Context) -> Result<Vec<Instance>, Error> {
    Ok(ctx.call(ListInstances {}).await?.instances)
}

/// The one of this server.
pub(crate) async fn of(ctx: &Context, server: &Server) -> Result<Option<Instance>, Error> {
    Ok(all(ctx).await?.into_iter().find(|instance| belongs(instance, server)))
}

/// An instance of an earlier server of that name, or one on a node that the server has left, is not its own.
pub(crate) fn belongs(instance: &Instance, server: &Server) -> bool {
    instance.server_id == server.id && instance.node == server.node
}

/// Waits until the server is as wanted; fails with what keeps it from being so.
pub(crate) async fn until(
    ctx: &Context,
    server: &Server,
    wanted: Wanted,
    deadline: Instant,
) -> Result<Option<Instance>, Error> {
    let mut failing: Option<Instant> = None;
    loop {
        let instance = of(ctx, server).await?;
        let state = instance.as_ref().map(|instance| &instance.state);
        let begun = |after: Option<Timestamp>| instance.as_ref().map(|instance| instance.since) != after;
        match (wanted, state) {
            (Wanted::Running { after }, Some(InstanceState::Running)) if begun(after) => return Ok(instance),
            (Wanted::Stopped, Some(InstanceState::Stopped) | None) => return Ok(instance),
            (Wanted::Running { .. }, Some(InstanceState::Failed { error })) => {
                if failing.get_or_insert_with(Instant::now).elapsed() >= FAILED_FOR {
                    let message = format!("server {} does not run: {}", server.name, error.message);
                    return Err(Error { message, ..error.clone() });
                }
            }
            _ => failing = None,
        }
        if Instant::now() >= deadline {
            let is = state.map_or("not there", InstanceState::as_str);
            let what = format!("server {} on {} is {is} still", server.name, server.node);
            return Err(
                Error::new(Code::BUS_TIMEOUT, what).with_hint("See `vpn doctor` and the log of the node.")
            );
        }
        sleep(LOOK_EVERY).await;
    }
}
