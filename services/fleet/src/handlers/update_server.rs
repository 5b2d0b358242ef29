//! Changes a server's settings.

use std::sync::Arc;

use contract::{
    Timestamp,
    fleet::{Server, ServerEvent, ServerReply, UpdateServer},
};

use crate::{
    Ctx, dest,
    error::Error,
    placement::{self, Servers},
    settings,
    store::Step,
};

/// What is absent stays, and what stays as it is is not looked at again: neither the port nor the dest.
pub(crate) async fn update_server(ctx: Arc<Ctx>, request: UpdateServer) -> Result<ServerReply, Error> {
    let mut warnings = Vec::new();
    let (old, new) = ctx.store.decide(|_, servers| decide(&request, servers)).await?.decision;
    if let Some(reality) = new.reality.as_ref().filter(|_| new.reality != old.reality) {
        warnings.extend(dest::warning(&ctx, &new.node, reality).await?);
    }
    let change = ctx.store.change_server(|_, servers| {
        let (old, new) = decide(&request, servers)?;
        if old == new {
            return Ok(Step::Keep(old));
        }
        let new = Server { updated_at: Timestamp::now(), ..new };
        Ok(Step::Write(new, ServerEvent::Updated))
    });
    let server = change.await?;
    warnings.extend(super::lost_warning(&ctx, &server.node));
    Ok(ServerReply { server, warnings })
}

/// The server as it is, and as it is to be.
fn decide(request: &UpdateServer, servers: &Servers) -> Result<(Server, Server), Error> {
    let missing = || Error::ServerNotFound(request.name.clone());
    let old = servers.get(request.name.as_str()).ok_or_else(missing)?.clone();
    let new = Server {
        port: request.port.unwrap_or(old.port),
        image: request.image.clone().or_else(|| old.image.clone()),
        reality: request.reality.clone().or_else(|| old.reality.clone()),
        resources: request.resources.unwrap_or(old.resources),
        allow_private: request.allow_private.clone().unwrap_or_else(|| old.allow_private.clone()),
        ..old.clone()
    };
    settings::check(new.protocol, new.reality.as_ref(), &new.resources, &new.allow_private)?;
    if new.port != old.port
        && let Some(holder) = placement::holder(servers, &new.node, new.protocol, new.port, Some(&new.name))
    {
        return Err(Error::PortTaken {
            port: new.port,
            protocol: new.protocol,
            holder: Box::new(holder.clone()),
        });
    }
    Ok((old, new))
}
