//! Reads one server.

use std::sync::Arc;

use contract::fleet::{GetServer, Server};

use crate::{Ctx, error::Error};

/// As it is in memory, which follows the bucket.
pub(crate) async fn get_server(ctx: Arc<Ctx>, request: GetServer) -> Result<Server, Error> {
    let name = request.name;
    let found = ctx.store.decide(|_, servers| {
        servers.get(name.as_str()).cloned().ok_or_else(|| Error::ServerNotFound(name.clone()))
    });
    Ok(found.await?.decision)
}
