//! What can go wrong on the bus, as errors of the catalogue.

use async_nats::jetstream::{
    self,
    context::{PublishError, PublishErrorKind},
};
use contract::{Code, Error};

/// Another change came first.
pub(crate) const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];
/// JetStream is out of storage or memory: `insufficient resources`, `maximum bytes exceeded`, and the limits of
/// an account and a stream.
const STORAGE_FULL: [u64; 5] = [10023, 10047, 10028, 10077, 10122];

/// What came of a publish that was not acknowledged.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another change came first.
    Conflict,
    /// It may or may not have been stored: to be sent again.
    Unknown(String),
    /// It was not stored, and trying again will not help now.
    Final(Error),
}

impl Refusal {
    pub(crate) fn of_publish(error: &PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Self::Conflict,
            PublishErrorKind::MaxPayloadExceeded => Self::Final(Error::new(
                Code::REQUEST_TOO_LARGE,
                "the state is larger than one message may be",
            )),
            PublishErrorKind::Other => match std::error::Error::source(error).and_then(jetstream_error) {
                Some(error) => Self::of_jetstream(error.error_code().0, &error.to_string()),
                None => Self::Unknown(error.to_string()),
            },
            _ => Self::Unknown(error.to_string()),
        }
    }

    /// The connection was made anew before an answer came.
    pub(crate) fn reconnected() -> Self {
        Self::Unknown("the connection broke".to_owned())
    }

    /// No answer came in all the time there was. nats-server (2.15) says nothing to who publishes when its disk is
    /// full, and stores nothing from then on until it is started again.
    pub(crate) fn silence() -> Self {
        Self::Unknown("nats-server says nothing, as it does when its disk is full".to_owned())
    }

    pub(crate) fn of_jetstream(code: u64, text: &str) -> Self {
        if WRONG_LAST_SEQUENCE.contains(&code) {
            Self::Conflict
        } else if STORAGE_FULL.contains(&code) || text.contains("no space left") {
            Self::Final(Error::new(Code::BUS_STORAGE_FULL, format!("nats-server: {text}")))
        } else if code == 10008 || code == 10009 {
            // JetStream is not there for the moment: a server that starts, a cluster without a leader.
            Self::Unknown(text.to_owned())
        } else {
            Self::Final(Error::new(Code::BUS_STORE_FAILED, format!("nats-server: {text}")))
        }
    }
}

fn jetstream_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e jetstream::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<jetstream::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// JetStream did not do what was asked of it.
pub(crate) fn jetstream_failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    match jetstream_error(error) {
        Some(found) => match Refusal::of_jetstream(found.error_code().0, &found.to_string()) {
            Refusal::Final(error) => Error { message: format!("{what}: {}", error.message), ..error },
            _ => Error::new(Code::BUS_STORE_FAILED, format!("{what}: {found}")),
        },
        None => Error::new(Code::BUS_STORE_FAILED, format!("{what}: {error}")),
    }
}

/// Whether trying again later can help, whatever was asked.
pub fn is_transient(error: &Error) -> bool {
    error.status() >= 500
        && error.code.as_str() != Code::INTERNAL.as_str()
        && error.code != Code::SERVICE_PANICKED
}
