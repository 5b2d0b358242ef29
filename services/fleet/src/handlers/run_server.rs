//! Starts, stops or restarts a server.

use std::sync::Arc;

use contract::{
    Timestamp,
    fleet::{Run, RunServer, Server, ServerEvent},
};

use crate::{Ctx, error::Error, store::Step};

/// A start of what runs and a stop of what does not are done already. A restart also starts what is stopped.
pub(crate) async fn run_server(ctx: Arc<Ctx>, request: RunServer) -> Result<Server, Error> {
    let name = request.name;
    let change = ctx.store.change_server(|_, servers| {
        let found = servers.get(name.as_str()).ok_or_else(|| Error::ServerNotFound(name.clone()))?;
        let mut server = Server { updated_at: Timestamp::now(), ..found.clone() };
        let event = match request.run {
            Run::Start if found.running => return Ok(Step::Keep(found.clone())),
            Run::Stop if !found.running => return Ok(Step::Keep(found.clone())),
            Run::Start => ServerEvent::Started,
            Run::Stop => ServerEvent::Stopped,
            Run::Restart => ServerEvent::Restarted,
        };
        server.running = request.run != Run::Stop;
        if request.run == Run::Restart {
            // Only that it differs from the last one counts.
            server.restarts = server.restarts.wrapping_add(1);
        }
        Ok(Step::Write(server, event))
    });
    change.await
}
