//! What a server is made of on this node: its engine, and what its instance must be like.

use std::{path::PathBuf, sync::Arc};

use contract::{
    ImageRef, Protocol,
    fleet::{Server, ServerId},
    keys::ServerPublic,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    Ctx,
    backend::Spec,
    engine::{Engine, EngineServer, Launch, wireguard, wireguard::Wireguard, xray, xray::Xray},
    plan::Wanted,
};

/// A server's engine with what its instance must be like.
pub(super) struct Made {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) spec: Spec,
    pub(super) wanted: Wanted,
}

/// The directory that a server's instance shares with the agent.
pub(crate) fn run_dir(ctx: &Ctx, server: &ServerId) -> PathBuf {
    ctx.config.run_dir.join(server.0.simple().to_string())
}

/// The engine of a server on this node.
pub(crate) fn engine_of(ctx: &Ctx, target: &EngineServer) -> Arc<dyn Engine> {
    let server = &target.server;
    let run_dir = run_dir(ctx, &server.id);
    let inside = ctx.backend.inside(&run_dir);
    let image = |own: &ImageRef| server.image.clone().unwrap_or_else(|| own.clone());
    match server.protocol {
        Protocol::VlessReality | Protocol::Shadowsocks2022 => {
            let image = image(&ctx.config.xray_image);
            let place =
                xray::Place { run_dir, inside, image, program: ctx.config.xray.clone(), env: Vec::new() };
            Arc::new(Xray::new(place, server.protocol, server.port))
        }
        Protocol::Wireguard => {
            let image = image(&ctx.config.wireguard_image);
            let settings = wireguard::Settings { run_dir, inside, image, program: ctx.config.vpnd.clone() };
            Arc::new(Wireguard::new(settings, target))
        }
    }
}

/// Makes it.
pub(super) fn make(ctx: &Ctx, target: &EngineServer) -> Made {
    let server = &target.server;
    let engine = (ctx.engines)(ctx, target);
    let launch = engine.launch();
    let revision = revision(server, &target.public, &launch);
    let wanted = Wanted {
        server: server.name.clone(),
        server_id: server.id,
        revision: revision.clone(),
        running: server.running,
    };
    let spec = Spec {
        server: server.name.clone(),
        server_id: server.id,
        revision,
        image: launch.image,
        program: launch.program,
        args: launch.args,
        env: launch.env,
        ports: server.protocol.transports().iter().map(|transport| (server.port, *transport)).collect(),
        run_dir: run_dir(ctx, &server.id),
        rights: launch.rights,
        memory: server.resources.memory.get(),
        pids: server.resources.pids,
        traceparent: None,
    };
    Made { engine, spec, wanted }
}

/// Changes when the container must be made anew. The node's own addresses are left out, although they are in the
/// arguments: an address that comes and goes must not end everybody's connections.
fn revision(server: &Server, public: &ServerPublic, launch: &Launch) -> String {
    #[derive(Serialize)]
    struct Counts<'a> {
        settings: &'a Server,
        public: &'a ServerPublic,
        image: &'a ImageRef,
        program: &'a std::path::Path,
        env: &'a [(String, String)],
    }
    // What does not change the container is made the same for all.
    let mut settings = Server { running: true, ..server.clone() };
    settings.updated_at = settings.created_at;
    let counts = Counts {
        settings: &settings,
        public,
        image: &launch.image,
        program: &launch.program,
        env: &launch.env,
    };
    // Plain data with string keys: there is nothing in it that JSON cannot hold.
    let text = serde_json::to_vec(&counts).unwrap_or_default();
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
