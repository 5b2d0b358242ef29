//! Reads one server.

use std::sync::Arc;

use contract::fleet::{GetServer, Server};

use crate::{Ctx, error::Error};

/// As it is in memory, which follows the bucket.
pub(crate) async fn get_server(ctx: Arc<Ctx>, request: GetServer) -> Result<Server, Error> {
    let server = ctx.store.servers().get(request.name.as_str()).cloned();
    server.ok_or(Error::ServerNotFound(request.name))
}
