//! The worker of one server's instance: brings about what it is ordered, keeps it so, and lets users in and out.
//!
//! - [`Instance`] the worker
//! - [`made`]     what the server is made of here

mod made;

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use bus::origin::{self, Trace};
use contract::{Code, Protocol, ServerName, UserName, runtime::InstanceState};
pub(crate) use made::engine_of;
use made::{Made, make, run_dir};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, info_span};

use crate::{
    Ctx,
    backend::{Container, ContainerState, Error},
    config::{LOOK_EVERY, READY_WITHIN, SAVE_AFTER, STOP_GRACE},
    engine::{EngineServer, wireguard},
    mailbox::{Mailbox, News, Order, Roster},
    pace::Pace,
    plan::{Action, plan},
};

/// Between two looks whether an instance that does not answer yet has ended.
const ENDED_EVERY: Duration = Duration::from_millis(200);
/// The last words of an instance are worth no longer wait.
const WORDS_WITHIN: Duration = Duration::from_secs(1);

/// The worker of one server's instance.
pub(crate) struct Instance {
    ctx: Arc<Ctx>,
    name: ServerName,
    mailbox: Arc<Mailbox>,
    order: Option<Order>,
    serving: Option<Serving>,
    protocol: Option<Protocol>,
    made: Option<Made>,
    pace: Pace,
    look_at: Instant,
    save_at: Option<Instant>,
    saving: Option<AbortOnDropHandle<()>>,
    /// What waits for the next attempt.
    causes: Vec<Trace>,
    gone: bool,
}

/// The engine answers, and has its users.
struct Serving {
    pid: u32,
}

impl Instance {
    /// The worker for a server that gets its orders from `mailbox`.
    pub(crate) fn new(ctx: Arc<Ctx>, name: ServerName, mailbox: Arc<Mailbox>) -> Self {
        let now = Instant::now();
        Self {
            ctx,
            name,
            mailbox,
            order: None,
            serving: None,
            protocol: None,
            made: None,
            pace: Pace::new(now),
            look_at: now + LOOK_EVERY,
            save_at: None,
            saving: None,
            causes: Vec::new(),
            gone: false,
        }
    }

    /// Works until nothing should be there any more, and nothing is.
    pub(crate) async fn run(mut self) {
        let mailbox = self.mailbox.clone();
        loop {
            let due = self.save_at.map_or(self.look_at, |save| save.min(self.look_at));
            tokio::select! {
                news = mailbox.take() => self.take_in(news).await,
                () = sleep_until(due) => self.do_due().await,
            }
            if self.gone && mailbox.close() {
                return;
            }
        }
    }

    async fn take_in(&mut self, news: News) {
        let ordered = news.order.is_some();
        if let Some(order) = news.order {
            self.obey(order);
        }
        if ordered || news.look {
            self.causes.extend(news.causes.iter().cloned());
            self.look().await;
        }
        // Who was in the roster when the engine was brought in line is there already, which costs nothing.
        self.admit(&news.users, if ordered { &[] } else { &news.causes }).await;
    }

    fn obey(&mut self, order: Order) {
        self.gone = false;
        self.serving = None;
        self.pace = Pace::new(Instant::now());
        match &order {
            Order::Gone => self.made = None,
            Order::Wait(server) => {
                self.protocol = Some(server.protocol);
                self.made = None;
            }
            Order::Serve(server, _) => {
                self.protocol = Some(server.server.protocol);
                self.made = Some(make(&self.ctx, server));
            }
        }
        self.order = Some(order);
    }

    async fn do_due(&mut self) {
        let now = Instant::now();
        if self.save_at.is_some_and(|at| at <= now) {
            self.save().await;
        }
        if self.look_at <= now {
            self.look().await;
        }
    }

    /// Compares what is with what should be, and leads from the one to the other.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.pace.not_before() > now {
            self.look_at = self.pace.not_before();
            return;
        }
        let causes = std::mem::take(&mut self.causes);
        // Without a cause this is the look that is due every so often, which is nobody's trace unless it finds
        // something.
        let span = if causes.is_empty() {
            Span::none()
        } else {
            let span = self.span();
            origin::caused_by(&span, &causes);
            span
        };
        let reconciled = self.reconcile().instrument(span.clone()).await;
        let now = Instant::now();
        let Err(error) = reconciled else {
            self.look_at = now + LOOK_EVERY;
            return;
        };
        self.look_at = self.pace.failed(now);
        // A daemon that is away takes nothing from an engine that serves.
        let away = [Code::RUNTIME_BACKEND_UNREACHABLE, Code::RUNTIME_BACKEND_TIMEOUT].contains(&error.code);
        if !(away && self.serving.is_some()) {
            self.serving = None;
            span.in_scope(|| self.report(InstanceState::Failed { error: error.into() }));
        } else {
            tracing::warn!(server = %self.name, %error, "the container daemon is away; the engine serves on");
        }
    }

    fn span(&self) -> Span {
        info_span!(
            "reconcile",
            otel.name = format!("reconcile {}", self.name),
            vpn.service = "runtime",
            vpn.sample = "always",
            vpn.server = %self.name,
        )
    }

    async fn reconcile(&mut self) -> Result<(), Error> {
        let Some(order) = self.order.clone() else { return Ok(()) };
        if matches!(order, Order::Wait(_)) {
            self.report(InstanceState::Starting);
            return Ok(());
        }
        let desired: Vec<_> = self.made.iter().map(|made| made.wanted.clone()).collect();
        let actual = self.containers_meanwhile().await?;
        let actions = plan(&desired, &actual);
        let span = if actions.is_empty() || !Span::current().is_none() {
            Span::none()
        } else {
            // Found rather than ordered: a trace of its own, that knows which one made what it is about.
            let span = self.span();
            for container in &actual {
                origin::reminds_of(&span, &origin::trace_from(container.traceparent.as_deref()));
            }
            span
        };
        self.carry_out(order, actual, actions).instrument(span).await
    }

    async fn carry_out(
        &mut self,
        order: Order,
        mut actual: Vec<Container>,
        actions: Vec<Action>,
    ) -> Result<(), Error> {
        for action in &actions {
            self.act(action, &actual, &order).await?;
        }
        let Order::Serve(server, roster) = order else {
            self.gone = true;
            self.serving = None;
            self.ctx.reports.gone(&self.name);
            return Ok(());
        };
        if !server.server.running {
            self.serving = None;
            self.report(InstanceState::Stopped);
            return Ok(());
        }
        if !actions.is_empty() {
            actual = self.containers().await?;
        }
        let pid = actual.iter().find_map(running).ok_or_else(|| {
            Error::new(Code::RUNTIME_ENGINE_FAILED, format!("{} ended right after its start", self.name))
        });
        match pid {
            Ok(pid) if self.serving.as_ref().is_some_and(|serving| serving.pid == pid) => Ok(()),
            Ok(pid) => self.serve(&roster, pid).await,
            Err(error) => Err(self.with_last_words(error).await),
        }
    }

    async fn act(&mut self, action: &Action, actual: &[Container], order: &Order) -> Result<(), Error> {
        let backend = self.ctx.backend.clone();
        match action {
            Action::Remove(server) => {
                let removed = backend.remove(server).instrument(info_span!("remove container")).await;
                self.serving = None;
                removed?;
                for container in actual {
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
                let (Some(made), Order::Serve(server, roster)) = (&self.made, order) else { return Ok(()) };
                self.serving = None;
                self.report(InstanceState::Starting);
                self.pace.started(Instant::now());
                // It would write after us what it knew before.
                if let Some(saving) = self.saving.take() {
                    let _ = saving.await;
                }
                let users = roster.users();
                let prepare = info_span!("prepare engine", vpn.users = users.len());
                made.engine.prepare(server, &users).instrument(prepare).await?;
                let start = info_span!("start container", container.runtime = backend.name());
                backend.start(&made.spec).instrument(start).await?;
            }
            Action::Stop(server) => {
                let stop = info_span!("stop container", container.runtime = backend.name());
                backend.stop(server, STOP_GRACE).instrument(stop).await?;
            }
        }
        Ok(())
    }

    /// Brings the engine that runs in `pid` in line with the roster.
    async fn serve(&mut self, roster: &Roster, pid: u32) -> Result<(), Error> {
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
        self.serving = Some(Serving { pid });
        self.save_later();
        self.report(InstanceState::Running);
        Ok(())
    }

    /// Lets users in or out who were put into the roster or taken from it.
    async fn admit(&mut self, names: &BTreeSet<UserName>, causes: &[Trace]) {
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
                self.look_at = self.pace.failed(Instant::now());
                self.causes = causes.to_vec();
            }
        }
    }

    fn save_later(&mut self) {
        self.save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    /// Brings the file up to date that the engine starts from, while users go on coming and going.
    async fn save(&mut self) {
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

    /// The containers, while users go on coming and going: a daemon that hangs must not keep them waiting.
    async fn containers_meanwhile(&mut self) -> Result<Vec<Container>, Error> {
        let (backend, mailbox) = (self.ctx.backend.clone(), self.mailbox.clone());
        let listing = backend.list();
        tokio::pin!(listing);
        let mut containers = loop {
            let news = tokio::select! {
                listed = &mut listing => break listed?,
                news = mailbox.take() => news,
            };
            if news.order.is_some() {
                mailbox.put_back(news);
                break listing.await?;
            }
            self.admit(&news.users, &news.causes).await;
        };
        containers.retain(|container| container.server == self.name);
        Ok(containers)
    }

    async fn containers(&self) -> Result<Vec<Container>, Error> {
        let mut containers = self.ctx.backend.list().await?;
        containers.retain(|container| container.server == self.name);
        Ok(containers)
    }

    /// Returns when the instance does not run any more.
    async fn ended(&self) {
        loop {
            sleep(ENDED_EVERY).await;
            if let Ok(containers) = self.containers().await
                && containers.iter().find_map(running).is_none()
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

    fn report(&self, state: InstanceState) {
        if let InstanceState::Failed { error } = &state {
            tracing::warn!(server = %self.name, %error, "does not run");
        }
        match &self.order {
            Some(Order::Serve(server, _)) => self.ctx.reports.state(&server.server, state),
            Some(Order::Wait(server)) => self.ctx.reports.state(server, state),
            Some(Order::Gone) | None => {}
        }
    }
}

fn running(container: &Container) -> Option<u32> {
    match container.state {
        ContainerState::Running { pid } => Some(pid),
        ContainerState::Created | ContainerState::Exited { .. } => None,
    }
}

#[cfg(test)]
mod tests;
