//! Which spans are kept, and which service they belong to: both are said by fields of the span that starts the work.
//!
//! ```
//! let span = tracing::info_span!("users.create", vpn.service = "users", vpn.sample = "always");
//! # drop(span);
//! ```
//!
//! - `vpn.service` names the service whose work this span and all spans under it in this process are. Several
//!   services run in one process, and each must have its own name in a trace. Without it a span belongs to its
//!   parent's service, and without a parent to the process's own.
//! - `vpn.sample = "always"` keeps a span whatever the ratio and the caller said: commands that change state.
//!   `"never"` drops it. Otherwise the caller's decision holds, and a ratio of the traces that begin here is kept.
//!
//! A span's children can read nothing of it but its span context. So the service's name rides in the trace state
//! of the span context, under a key that never leaves the process.

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// The field that names the service.
pub const SERVICE_FIELD: &str = "vpn.service";
/// The field that keeps a span whatever the ratio says.
pub const SAMPLE_FIELD: &str = "vpn.sample";
/// The value of [`SAMPLE_FIELD`] that does.
pub const ALWAYS: &str = "always";
/// The value of [`SAMPLE_FIELD`] that drops a span and what is under it: what is done again and again.
pub const NEVER: &str = "never";
/// Its value that leaves the decision to the caller, and where there is none to the ratio.
pub const RATIO: &str = "ratio";

/// Where the service's name stands in a trace state inside this process.
pub(crate) const SERVICE_KEY: &str = "vpn";

/// Keeps what is marked, follows the caller, and else keeps a ratio.
#[derive(Debug, Clone)]
pub(crate) struct ByField {
    otherwise: Sampler,
}

impl ByField {
    /// `ratio` of the traces that begin here are kept, from 0 to 1.
    pub(crate) fn new(ratio: f64) -> Self {
        Self { otherwise: Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))) }
    }
}

impl ShouldSample for ByField {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let decision = match text(attributes, SAMPLE_FIELD) {
            Some(ALWAYS) => SamplingDecision::RecordAndSample,
            Some(NEVER) => SamplingDecision::Drop,
            _ => self.otherwise.should_sample(parent, trace_id, name, kind, attributes, links).decision,
        };
        let trace_state = trace_state(parent, text(attributes, SERVICE_FIELD));
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

/// The parent's trace state with the service of this span in it. A parent in another process never has one:
/// [`crate::context`] takes it out on both sides.
fn trace_state(parent: Option<&Context>, service: Option<&str>) -> TraceState {
    let given = parent.map(|cx| cx.span().span_context().trace_state().clone()).unwrap_or_default();
    match service {
        Some(service) if given.get(SERVICE_KEY) != Some(service) => {
            // Refused for a name that a header could not hold: such a span belongs to its parent's service.
            given.insert(SERVICE_KEY, service).unwrap_or(given)
        }
        _ => given,
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.key.as_str() == key).and_then(|attribute| {
        match &attribute.value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    })
}
