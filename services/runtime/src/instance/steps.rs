//! The steps from what is to what should be.

use std::{collections::BTreeSet, io, time::Duration};

use bus::origin;
use contract::{Code, Protocol, fleet::Server, runtime::InstanceState};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, info_span};

use super::{Instance, Serving, made::run_dir, running};
use crate::{
    backend::{Container, Error},
    config::{READY_WITHIN, STOP_GRACE},
    engine::wireguard,
    mailbox::{Order, Roster},
    plan::Action,
};

/// Between two looks whether an instance that does not answer yet has ended.
const ENDED_EVERY: Duration = Duration::from_millis(200);
/// The last words of an instance are worth no longer wait.
const WORDS_WITHIN: Duration = Duration::from_secs(1);

impl Instance {
    /// Takes the steps, and sees to it that the engine serves if it should.
    pub(super) async fn carry_out(
        &mut self,
        order: Order,
        mut actual: Option<Container>,
        actions: Vec<Action>,
    ) -> Result<(), Error> {
        for action in &actions {
            self.act(action, actual.as_ref(), &order).await?;
        }
        let Order::Serve(server, roster) = order else {
            self.gone = true;
            self.serving = None;
            if let Some(server) = actual.map(|container| container.server_id) {
                self.ctx.meter.gone(server).await;
            }
            self.ctx.reports.gone(&self.name);
            return Ok(());
        };
        if !server.server.running {
            self.serving = None;
            self.report(InstanceState::Stopped);
            return Ok(());
        }
        if !actions.is_empty() {
            actual = self.ctx.backend.find(&self.name).await?;
        }
        let pid = actual.as_ref().and_then(running).ok_or_else(|| {
            Error::new(Code::RUNTIME_ENGINE_FAILED, format!("{} ended right after its start", self.name))
        });
        match pid {
            Ok(pid) if self.serving.as_ref().is_some_and(|serving| serving.pid == pid) => Ok(()),
            Ok(pid) => self.serve(&server.server, &roster, pid).await,
            Err(error) => Err(self.with_last_words(error).await),
        }
    }

    async fn act(&mut self, action: &Action, actual: Option<&Container>, order: &Order) -> Result<(), Error> {
        let backend = self.ctx.backend.clone();
        match action {
            Action::Remove(server) => {
                self.read_counters(actual).await;
                let removed = backend.remove(server).instrument(info_span!("remove container")).await;
                self.serving = None;
                removed?;
                self.saved().await;
                if let Some(container) = actual {
                    self.clear_after(container).await;
                }
            }
            Action::Create(_) => {
                self.report(InstanceState::Starting);
                let Some(made) = &mut self.made else { return Ok(()) };
                let span = info_span!("create container", container.runtime = backend.name());
                made.spec.traceparent = origin::traceparent();
                let spec = &made.spec;
                async {
                    match backend.create(spec).await {
                        Err(error) if error.code == Code::RUNTIME_IMAGE_MISSING => {
                            backend.ensure_image(&spec.image).await?;
                            backend.create(spec).await
                        }
                        done => done,
                    }
                }
                .instrument(span)
                .await?;
            }
            Action::Start(_) => {
                self.saved().await;
                let (Some(made), Order::Serve(server, roster)) = (&self.made, order) else { return Ok(()) };
                self.serving = None;
                self.read_counters(actual).await;
                self.started = true;
                self.report(InstanceState::Starting);
                self.pace.started(Instant::now());
                let users = roster.users();
                let prepare = info_span!("prepare engine", vpn.users = users.len());
                made.engine.prepare(server, &users).instrument(prepare).await?;
                let start = info_span!("start container", container.runtime = backend.name());
                backend.start(&made.spec).instrument(start).await?;
            }
            Action::Stop(server) => {
                self.read_counters(actual).await;
                let stop = info_span!("stop container", container.runtime = backend.name());
                backend.stop(server, STOP_GRACE).instrument(stop).await?;
            }
        }
        Ok(())
    }

    /// Brings the engine that runs in `pid` in line with the roster.
    async fn serve(&mut self, server: &Server, roster: &Roster, pid: u32) -> Result<(), Error> {
        let Some(made) = &self.made else { return Ok(()) };
        let engine = made.engine.clone();
        let ready = engine.ready(Instant::now() + READY_WITHIN).instrument(info_span!("engine ready"));
        let answered = tokio::select! {
            answered = ready => answered,
            () = self.ended() => Err(Error::new(Code::RUNTIME_ENGINE_FAILED, "it ended right after its start")),
        };
        if let Err(error) = answered {
            return Err(self.with_last_words(error).await);
        }
        let users = roster.users();
        let span = info_span!("converge engine", vpn.users = users.len());
        let converged = engine.converge(&users, pid).instrument(span).await?;
        tracing::info!(
            server = %self.name,
            users = users.len(),
            added = converged.added,
            removed = converged.removed,
            "serves"
        );
        if let Some(coming) = roster.coming() {
            engine.expect(&coming, pid).await?;
            self.learn_later();
        }
        let started = std::mem::take(&mut self.started);
        self.ctx.meter.serves((server.id, &server.name), engine, pid, started).await;
        self.serving = Some(Serving { pid });
        self.save_later();
        self.report(InstanceState::Running);
        Ok(())
    }

    /// The engine is about to end: what it has counted is read a last time.
    async fn read_counters(&self, actual: Option<&Container>) {
        let wanted = self.made.as_ref().map(|made| made.wanted.server_id);
        let servers: BTreeSet<_> =
            wanted.into_iter().chain(actual.map(|container| container.server_id)).collect();
        for server in servers {
            self.ctx.meter.read(server).await;
        }
    }

    /// Returns when the instance does not run any more.
    async fn ended(&self) {
        loop {
            sleep(ENDED_EVERY).await;
            if let Ok(found) = self.ctx.backend.find(&self.name).await
                && found.as_ref().and_then(running).is_none()
            {
                return;
            }
        }
    }

    async fn with_last_words(&self, error: Error) -> Error {
        match timeout(WORDS_WITHIN, self.ctx.backend.last_words(&self.name)).await {
            Ok(Ok(words)) if !words.is_empty() => {
                Error::new(error.code, format!("{}; its last words: {words}", error.message))
            }
            _ => error,
        }
    }

    /// Removes what a container leaves on the node, unless the server is to be there still.
    async fn clear_after(&self, container: &Container) {
        let protocol = match &self.made {
            Some(made) if made.wanted.server_id == container.server_id => return,
            _ => self.protocol,
        };
        // Of an orphan nobody knows what it spoke.
        if self.ctx.backend.name() == "process"
            && protocol.is_none_or(|protocol| protocol == Protocol::Wireguard)
            && let Err(error) = wireguard::clear(&container.server_id).await
        {
            tracing::warn!(server = %self.name, %error, "something of a WireGuard device may be left");
        }
        let run_dir = run_dir(&self.ctx, &container.server_id);
        match tokio::fs::remove_dir_all(&run_dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %run_dir.display(), %error, "a run directory is left");
            }
            _ => {}
        }
    }
}
