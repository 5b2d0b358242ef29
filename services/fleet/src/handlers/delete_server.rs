//! Removes a server.

use std::sync::Arc;

use contract::fleet::{DeleteServer, Server};

use crate::{Ctx, error::Error, store::Step};

/// Its port and name are free at once; its instance and keys follow on the bus.
pub(crate) async fn delete_server(ctx: Arc<Ctx>, request: DeleteServer) -> Result<Server, Error> {
    let name = request.name;
    let change = ctx.store.change_server(|_, servers| match servers.get(name.as_str()) {
        Some(server) => Ok(Step::Delete(server.clone())),
        None => Err(Error::ServerNotFound(name.clone())),
    });
    change.await
}
