//! Users come and go while the engine runs.

use std::{collections::BTreeSet, sync::Arc};

use bus::origin::{self, Trace};
use contract::UserName;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, info_span};

use super::Instance;
use crate::{
    backend::Error,
    config::SAVE_AFTER,
    engine::EngineServer,
    mailbox::{Order, Roster},
};

impl Instance {
    /// Lets users in or out who were put into the roster or taken from it.
    pub(super) async fn admit(&mut self, names: &BTreeSet<UserName>, causes: &[Trace]) {
        let (Some(made), Some(Order::Serve(_, roster)), Some(serving)) =
            (&self.made, &self.order, &self.serving)
        else {
            return;
        };
        if names.is_empty() {
            return;
        }
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        {
            let roster = roster.lock();
            for name in names {
                match roster.get(name) {
                    Some(user) => come.push(user.clone()),
                    None => gone.push(name.clone()),
                }
            }
        }
        let span = info_span!(
            "admit",
            otel.name = format!("users of {}", self.name),
            vpn.service = "runtime",
            vpn.sample = "always",
            vpn.server = %self.name,
            vpn.users.added = come.len(),
            vpn.users.removed = gone.len(),
        );
        origin::caused_by(&span, causes);
        let (engine, pid) = (made.engine.clone(), serving.pid);
        let admitted = async {
            // First who must not: what frees an address may be in the way of what takes it.
            if !gone.is_empty() {
                engine.remove(&gone, pid).instrument(info_span!("engine removes users")).await?;
            }
            if !come.is_empty() {
                engine.add(&come, pid).instrument(info_span!("engine adds users")).await?;
            }
            Ok::<(), Error>(())
        };
        match admitted.instrument(span).await {
            Ok(()) => self.save_later(),
            Err(error) => {
                tracing::warn!(server = %self.name, %error, "the engine is compared with what it should have");
                self.serving = None;
                // The engine is asked first thing; that it was not there counts where it is started.
                self.look_at = self.pace.not_before();
                self.causes = causes.to_vec();
            }
        }
    }

    pub(super) fn save_later(&mut self) {
        self.save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    /// Brings the file up to date that the engine starts from, while users go on coming and going.
    pub(super) async fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            self.save_at = Some(Instant::now() + SAVE_AFTER);
            return;
        }
        self.save_at = None;
        let (Some(made), Some(Order::Serve(server, roster))) = (&self.made, &self.order) else { return };
        let (engine, server, roster): (_, Arc<EngineServer>, Roster) =
            (made.engine.clone(), server.clone(), roster.clone());
        self.saving = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            // It is written anew before each start: this is for who starts it without us.
            if let Err(error) = engine.save(&server, &roster.users()).await {
                tracing::warn!(server = %server.server.name, %error, "the engine's file is out of date");
            }
        })));
    }
    /// Waits for a file that is being written: it would come after us with what it knew before.
    pub(super) async fn saved(&mut self) {
        if let Some(saving) = self.saving.take() {
            // What went wrong was said there.
            let _ = saving.await;
        }
    }
}
