//! The worker of one server's instance: brings about what it is ordered, keeps it so, and lets users in and out.
//!
//! - [`Instance`] the worker
//! - [`made`]     what the server is made of here
//! - [`steps`]    from what is to what should be
//! - [`admit`]    users come and go while the engine runs

mod admit;
mod made;
mod steps;

use std::sync::Arc;

use bus::origin::{self, Trace};
use contract::{Code, Protocol, ServerName, runtime::InstanceState};
use made::{Made, make};
pub(crate) use made::{engine_of, run_dir};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, info_span};

use crate::{
    Ctx,
    backend::{Container, ContainerState, Error},
    config::LOOK_EVERY,
    mailbox::{Mailbox, News, Order},
    pace::Pace,
    plan::plan,
};

/// The worker of one server's instance.
pub(crate) struct Instance {
    ctx: Arc<Ctx>,
    name: ServerName,
    mailbox: Arc<Mailbox>,
    order: Option<Order>,
    serving: Option<Serving>,
    /// Its engine was started by us, and has not served yet.
    started: bool,
    protocol: Option<Protocol>,
    made: Option<Made>,
    pace: Pace,
    look_at: Instant,
    save_at: Option<Instant>,
    saving: Option<AbortOnDropHandle<()>>,
    learn_at: Option<Instant>,
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
            started: false,
            protocol: None,
            made: None,
            pace: Pace::new(now),
            look_at: now + LOOK_EVERY,
            save_at: None,
            saving: None,
            learn_at: None,
            causes: Vec::new(),
            gone: false,
        }
    }

    /// Works until nothing should be there any more, and nothing is.
    pub(crate) async fn run(mut self) {
        let mailbox = self.mailbox.clone();
        loop {
            let due = [self.save_at, self.learn_at].into_iter().flatten().fold(self.look_at, Instant::min);
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
        if let Some(coming) = news.coming {
            self.expect(&coming).await;
        }
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
        if self.learn_at.is_some_and(|at| at <= now) {
            self.learn().await;
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
            self.pace.well(now);
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
        let actual = self.find_meanwhile().await?;
        let actions = plan(&desired, actual.as_slice());
        let span = if actions.is_empty() || !Span::current().is_none() {
            Span::none()
        } else {
            // Found rather than ordered: a trace of its own, that knows which one made what it is about.
            let span = self.span();
            if let Some(container) = &actual {
                origin::reminds_of(&span, &origin::trace_from(container.traceparent.as_deref()));
            }
            span
        };
        self.carry_out(order, actual, actions).instrument(span).await
    }

    /// The container, while users go on coming and going: a daemon that hangs must not keep them waiting.
    async fn find_meanwhile(&mut self) -> Result<Option<Container>, Error> {
        let (backend, mailbox, name) = (self.ctx.backend.clone(), self.mailbox.clone(), self.name.clone());
        let finding = backend.find(&name);
        tokio::pin!(finding);
        let mut look = false;
        let found = loop {
            let news = tokio::select! {
                found = &mut finding => break found?,
                news = mailbox.take() => news,
            };
            if news.order.is_some() {
                mailbox.put_back(news);
                break finding.await?;
            }
            look |= news.look;
            self.admit(&news.users, &news.causes).await;
            if let Some(coming) = news.coming {
                self.expect(&coming).await;
            }
        };
        if look {
            // What happened while the daemon was asked may be missing in its answer.
            mailbox.look();
        }
        Ok(found)
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
