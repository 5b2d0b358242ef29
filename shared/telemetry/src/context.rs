//! Trace context in and out of messages, as W3C Trace Context says (<https://www.w3.org/TR/trace-context/>).
//!
//! Only `bus` calls this: whoever uses `bus` has its context carried for it.

use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, TraceContextExt, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetrySpanExt, SetParentError};

pub use opentelemetry::Context;

use crate::sampler::SERVICE_KEY;

/// The header with trace id, span id and whether the trace is kept. NATS headers are case-sensitive.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what other tracing systems have to say; absent where they have nothing.
pub const TRACESTATE: &str = "tracestate";

/// Hands the headers that carry the current span to `set`, by name and value; none where no trace is under way.
pub fn inject(set: &mut dyn FnMut(&str, String)) {
    inject_span(&Span::current(), set);
}

/// The same for a span that is not entered, such as that of a call which is about to be sent.
///
/// This starts the span: its parent must be set before.
pub fn inject_span(span: &Span, set: &mut dyn FnMut(&str, String)) {
    let cx = span.context();
    let span = cx.span();
    let carried = span.span_context();
    if !carried.is_valid() {
        return;
    }
    let flags = carried.trace_flags().to_u8();
    set(TRACEPARENT, format!("00-{}-{}-{flags:02x}", carried.trace_id(), carried.span_id()));
    let state = without_ours(carried.trace_state()).header();
    if !state.is_empty() {
        set(TRACESTATE, state);
    }
}

/// Reads the context that a message carries; one without a span where it carries none or one that is malformed.
pub fn extract(get: impl Fn(&str) -> Option<String>) -> Context {
    let headers = Headers { traceparent: get(TRACEPARENT), tracestate: get(TRACESTATE) };
    let cx = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    let given = cx.span().span_context().clone();
    if given.trace_state().get(SERVICE_KEY).is_none() {
        return cx;
    }
    // What says which service a span belongs to is this process's own business and believed of nobody else.
    Context::new().with_remote_span_context(SpanContext::new(
        given.trace_id(),
        given.span_id(),
        given.trace_flags(),
        true,
        without_ours(given.trace_state()),
    ))
}

/// Makes `span` a child of what `cx` carries. To be called before the span is first entered; where `cx` carries
/// nothing, the span stays what it was.
pub fn set_parent(span: &Span, cx: Context) {
    if !cx.span().span_context().is_valid() {
        return;
    }
    match span.set_parent(cx) {
        Ok(()) | Err(SetParentError::LayerNotFound | SetParentError::SpanDisabled) => {}
        Err(SetParentError::AlreadyStarted) => {
            debug_assert!(false, "the parent of a span is set before the span is first entered");
        }
    }
}

/// Links `span` to what `cx` carries: for a span that has several causes, or one that is long over.
pub fn link(span: &Span, cx: &Context) {
    let caused_by = cx.span().span_context().clone();
    if caused_by.is_valid() {
        span.add_link(caused_by);
    }
}

/// The trace that the current span is part of, as 32 hexadecimal digits.
pub fn current_trace_id() -> Option<String> {
    trace_id(&Span::current().context())
}

/// The trace that `cx` carries, as 32 hexadecimal digits.
pub fn trace_id(cx: &Context) -> Option<String> {
    let span = cx.span();
    let carried = span.span_context();
    carried.is_valid().then(|| carried.trace_id().to_string())
}

pub(crate) fn without_ours(state: &TraceState) -> TraceState {
    match state.get(SERVICE_KEY) {
        None => state.clone(),
        Some(_) => state.delete(SERVICE_KEY).unwrap_or_default(),
    }
}

struct Headers {
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Extractor for Headers {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => self.traceparent.as_deref(),
            TRACESTATE => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}
