//! Who caused what is being done. It rides in headers next to the trace, and is ambient like the trace while a
//! handler runs.

use async_nats::HeaderMap;
use contract::Effect;
use telemetry::{
    context::{self, Context},
    sampler,
};
use tokio::task_local;

/// The header with who caused a message: an operator, or `service:<name>`.
pub const ACTOR: &str = "Vpn-Actor";
/// The header with why, in the actor's words.
pub const REASON: &str = "Vpn-Reason";
/// The header with what happened, such as `users.created`.
pub const EVENT: &str = "Vpn-Event";
/// The header with how long the caller waits, in milliseconds.
pub const TIMEOUT: &str = "Vpn-Timeout";
/// The header that names the write which a message belongs to; one of a batch has the batch's name instead
/// (`Nats-Batch-Id`).
pub const WRITE: &str = "Vpn-Write";

/// The longest actor and reason that are kept: they are stored with every message.
const LONGEST: usize = 200;

/// Who caused something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// An operator's name, or `service:<name>`.
    pub actor: String,
    /// In the actor's words.
    pub reason: Option<String>,
}

task_local! {
    static CURRENT: Origin;
}

impl Origin {
    /// What a service does of itself.
    pub fn service(name: &str) -> Self {
        Self { actor: format!("service:{name}"), reason: None }
    }

    /// What an operator does.
    pub fn operator(name: &str) -> Self {
        Self { actor: clean(name), reason: None }
    }

    /// Runs `work` as caused by this.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Who causes what runs now.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// What a message says about its origin; `anonymous` where it says nothing.
    pub(crate) fn of(headers: Option<&HeaderMap>) -> Self {
        let get = |name| headers.and_then(|headers| headers.get(name)).map(|value| clean(value.as_str()));
        Self { actor: get(ACTOR).unwrap_or_else(|| "anonymous".to_owned()), reason: get(REASON) }
    }
}

/// Text from outside on its way into headers, logs and terminals.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

/// Headers that carry the origin and the current trace.
pub(crate) fn headers(service: &str) -> HeaderMap {
    let origin = Origin::current().unwrap_or_else(|| Origin::service(service));
    let mut headers = HeaderMap::new();
    headers.insert(ACTOR, origin.actor.as_str());
    if let Some(reason) = &origin.reason {
        headers.insert(REASON, reason.as_str());
    }
    context::inject(&mut |name, value| headers.insert(name, value.as_str()));
    headers
}

/// The trace that a message is part of.
pub(crate) fn trace_of(headers: Option<&HeaderMap>) -> Context {
    context::extract(|name| {
        headers.and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned())
    })
}

/// Which traces of a kind of request are kept.
pub(crate) fn sample(effect: Effect) -> &'static str {
    match effect {
        Effect::Changes => sampler::ALWAYS,
        Effect::Reads => sampler::RATIO,
        Effect::Repeats => sampler::NEVER,
    }
}

/// The trace that a message or piece of work is part of.
pub type Trace = Context;

/// Causes of a span beyond this number are left out: a link costs memory and tells no more.
const LINKS_MAX: usize = 32;

/// Makes `span` part of the one trace that caused it, or links it to the several that did.
pub fn caused_by(span: &tracing::Span, causes: &[Trace]) {
    let Some(last) = causes.last() else { return };
    let trace = context::trace_id(last);
    if causes.iter().all(|cause| context::trace_id(cause) == trace) {
        // The last one: without it, this would not have been possible yet.
        context::set_parent(span, last.clone());
    } else {
        causes.iter().take(LINKS_MAX).for_each(|cause| context::link(span, cause));
    }
}

/// Links `span` to a trace that it is no part of, such as the one that made what it is about.
pub fn reminds_of(span: &tracing::Span, trace: &Trace) {
    context::link(span, trace);
}

/// The current span as a W3C `traceparent`, to be kept with something that outlives it.
pub fn traceparent() -> Option<String> {
    let mut found = None;
    context::inject(&mut |name, value| {
        if name == context::TRACEPARENT {
            found = Some(value);
        }
    });
    found
}

/// The trace that a kept `traceparent` names.
pub fn trace_from(traceparent: Option<&str>) -> Trace {
    context::extract(|name| traceparent.filter(|_| name == context::TRACEPARENT).map(str::to_owned))
}
