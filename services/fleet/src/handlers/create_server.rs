//! Creates a server.

use std::sync::Arc;

use contract::{
    NodeName, Timestamp,
    fleet::{CreateServer, Server, ServerEvent, ServerId, ServerReply},
};
use uuid::Uuid;

use crate::{
    Ctx,
    config::NAMES_MAX,
    dest,
    error::Error,
    placement::{self, Nodes, Servers, Wanted},
    settings,
    store::Step,
};

/// Decides twice for a REALITY server: first to know which node to ask about the dest, then, as that may take
/// seconds, on what is there by then.
pub(crate) async fn create_server(ctx: Arc<Ctx>, request: CreateServer) -> Result<ServerReply, Error> {
    let mut warnings = Vec::new();
    let mut asked = None;
    if let Some(reality) = &request.reality {
        let first = ctx.store.decide(|nodes, servers| decide(&request, nodes, servers, None)).await?;
        let node = first.decision.node;
        warnings.extend(dest::warning(&ctx, &node, reality).await?);
        asked = Some(node);
    }
    let change = ctx.store.change_server(|nodes, servers| {
        let server = decide(&request, nodes, servers, asked.as_ref())?;
        Ok(Step::Write(server, ServerEvent::Created))
    });
    let server = change.await?;
    if let Some(asked) = asked.filter(|asked| *asked != server.node) {
        warnings.push(format!("the dest was looked at from node {asked}, and not from {}", server.node));
    }
    warnings.extend(super::lost_warning(&ctx, &server.node));
    Ok(ServerReply { server, warnings })
}

/// The server that the request asks for, on the node that takes it.
fn decide(
    request: &CreateServer,
    nodes: &Nodes,
    servers: &Servers,
    rather: Option<&NodeName>,
) -> Result<Server, Error> {
    let resources = request.resources.unwrap_or_default();
    settings::check(request.protocol, request.reality.as_ref(), &resources, &request.allow_private)?;
    if let Some(server) = servers.get(request.name.as_str()) {
        return Err(Error::ServerExists(Box::new(server.clone())));
    }
    if servers.len() >= NAMES_MAX {
        return Err(Error::Full { what: "servers", limit: NAMES_MAX });
    }
    let (protocol, port) = (request.protocol, request.port);
    let node =
        placement::place(nodes, servers, &Wanted { protocol, port, node: request.node.as_ref(), rather })?;
    let now = Timestamp::now();
    Ok(Server {
        name: request.name.clone(),
        id: ServerId(Uuid::now_v7()),
        protocol,
        port,
        node,
        image: request.image.clone(),
        reality: request.reality.clone(),
        resources,
        allow_private: request.allow_private.clone(),
        running: true,
        restarts: 0,
        created_at: now,
        updated_at: now,
    })
}
