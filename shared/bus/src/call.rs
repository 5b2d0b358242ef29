//! Requests as a client.

use std::time::Duration;

use async_nats::{HeaderMap, Request as NatsRequest, RequestErrorKind};
use bytes::Bytes;
use contract::{Code, Error, Request};
use serde::de::DeserializeOwned;
use telemetry::context;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{
    Bus,
    origin::{self, TIMEOUT},
    service::{ERROR, ERROR_CODE},
};

/// How long a call waits when it is not told otherwise: a change takes milliseconds, and a leader election of a
/// clustered bus takes 5 s.
pub const CALL_WITHIN: Duration = Duration::from_secs(8);

impl Bus {
    /// Sends a request and waits for its reply.
    pub async fn call<R: Request>(&self, request: R) -> Result<R::Reply, Error> {
        self.call_within(request, CALL_WITHIN).await
    }

    /// Sends a request and waits for its reply, at most `within`.
    pub async fn call_within<R: Request>(&self, request: R, within: Duration) -> Result<R::Reply, Error> {
        let subject = R::SUBJECT.render(request.node());
        let span = info_span!(
            "call",
            otel.name = format!("call {subject}"),
            otel.kind = "client",
            otel.status_code = Empty,
            error.code = Empty,
            vpn.sample = origin::sample(R::SUBJECT.effect),
            messaging.system = "nats",
            messaging.destination.name = subject,
        );
        let body = serde_json::to_vec(&request)
            .map_err(|error| Error::new(Code::REQUEST_INVALID, error.to_string()))?;
        let result = self.request::<R::Reply>(subject, body.into(), within).instrument(span.clone()).await;
        if let Err(error) = &result {
            record_error(&span, error);
        }
        result
    }

    async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        body: Bytes,
        within: Duration,
    ) -> Result<T, Error> {
        let largest = self.client.max_payload();
        if body.len() > largest {
            let what = format!("a request of {} bytes to {subject}; the bus takes {largest}", body.len());
            return Err(Error::new(Code::REQUEST_TOO_LARGE, what));
        }
        let mut headers = origin::headers(self.name());
        headers.insert(TIMEOUT, within.as_millis().to_string().as_str());
        let request = NatsRequest::new().payload(body).headers(headers).timeout(Some(within));
        let mut refusals = self.inner.refusals.subscribe();
        let answer = self.client.send_request(subject.clone(), request);
        tokio::pin!(answer);
        let reply = loop {
            tokio::select! {
                reply = &mut answer => break reply,
                Ok(refusal) = refusals.recv() => if refusal.contains(&format!("\"{subject}\"")) {
                    return Err(Error::new(Code::BUS_NOT_ALLOWED, refusal));
                },
            }
        };
        let message = reply.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => {
                Error::new(Code::BUS_NO_RESPONDERS, format!("nobody serves {subject}"))
            }
            RequestErrorKind::TimedOut => Error::new(
                Code::BUS_TIMEOUT,
                format!("{subject} did not answer within {} ms", within.as_millis()),
            ),
            _ => Error::new(Code::BUS_UNREACHABLE, format!("{subject}: {error}")),
        })?;
        decode(&subject, message.headers.as_ref(), &message.payload)
    }
}

fn decode<T: DeserializeOwned>(subject: &str, headers: Option<&HeaderMap>, body: &[u8]) -> Result<T, Error> {
    let unreadable = |error: serde_json::Error| {
        Error::new(Code::INTERNAL, format!("the reply of {subject} cannot be read: {error}"))
    };
    match headers.and_then(|headers| headers.get(ERROR).map(|text| (text, headers.get(ERROR_CODE)))) {
        Some((text, _)) => Err(serde_json::from_slice(body)
            .unwrap_or_else(|_| Error::new(Code::INTERNAL, format!("{subject}: {}", text.as_str())))),
        None => serde_json::from_slice(body).map_err(unreadable),
    }
}

/// Marks a span as failed.
pub(crate) fn record_error(span: &Span, error: &Error) {
    span.record("otel.status_code", "ERROR");
    span.record("error.code", error.code.as_str());
}

/// The trace under way, for people to look up.
pub fn trace_id() -> Option<String> {
    context::current_trace_id()
}
