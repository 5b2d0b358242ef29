//! Users come and go while the engine runs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bus::origin::{self, Trace};
use contract::UserName;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, info_span};

use super::Instance;
use crate::{
    backend::Error,
    config::SAVE_AFTER,
    engine::{EngineServer, UserSecret},
    mailbox::{Order, Roster},
};

/// The engine gets to know who is expected when nobody has come or gone for so long, …
const LEARN_AFTER: Duration = Duration::from_millis(100);
/// … and one after the other, with pauses so many times as long as the last one took: whoever comes or goes meanwhile
/// waits for the one, and with 10,000 users that is 13 ms.
const LEARN_PAUSE: u32 = 25;

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
                self.compare(&error);
                self.causes = causes.to_vec();
            }
        }
    }

    /// Tells the engine who may come next, which it gets to know when there is nothing else to do.
    pub(super) async fn expect(&mut self, coming: &[UserSecret]) {
        let (Some(made), Some(serving)) = (&self.made, &self.serving) else { return };
        match made.engine.expect(coming, serving.pid).await {
            Ok(()) => self.learn_later(),
            Err(error) => self.compare(&error),
        }
    }

    pub(super) fn learn_later(&mut self) {
        self.learn_at = Some(Instant::now() + LEARN_AFTER);
    }

    pub(super) async fn learn(&mut self) {
        self.learn_at = None;
        let (Some(made), Some(_)) = (&self.made, &self.serving) else { return };
        let started = Instant::now();
        match made.engine.learn().await {
            Ok(true) => self.learn_at = Some(Instant::now() + started.elapsed() * LEARN_PAUSE),
            Ok(false) => {}
            Err(error) => self.compare(&error),
        }
    }

    /// The engine did not do what it was asked.
    fn compare(&mut self, error: &Error) {
        tracing::warn!(server = %self.name, %error, "the engine is compared with what it should have");
        self.serving = None;
        // The engine is asked first thing; that it was not there counts where it is started.
        self.look_at = self.pace.not_before();
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
