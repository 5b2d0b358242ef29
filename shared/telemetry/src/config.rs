//! What can be set, and what is refused.

use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// What [`crate::init`] is told. The environment is read by whoever fills this in.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name in traces of what no span claims for another service: `users`, `vpnd`, `vpn`.
    pub service: String,
    /// Tells replicas apart; the node's name, for example.
    pub instance: Option<String>,
    /// Where traces go: OTLP over gRPC, such as `http://127.0.0.1:4317`. None keeps them here.
    pub otlp: Option<String>,
    /// How the log looks.
    pub log: LogFormat,
    /// What is logged: a level, or levels by module, such as `info` or `warn,bus=debug`.
    pub filter: String,
    /// The part of the traces beginning here that is kept, from 0 to 1. Marked spans are always kept
    /// (see [`crate::sampler`]).
    pub sample_ratio: f64,
}

impl Config {
    /// No collector, `info` to stderr, every trace: a small house can afford it.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            instance: None,
            otlp: None,
            log: LogFormat::Auto,
            filter: "info".to_owned(),
            sample_ratio: 1.0,
        }
    }
}

/// How the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::LogFormat { given: text.to_owned() }),
        }
    }
}

/// Says every try to reconnect, ten a second for each connection; what matters of it `bus` says in its own words.
const TALKATIVE: &str = "async_nats";

/// `Targets` takes a word that is no level for a module, so that a mistyped level would silence everything else.
pub(crate) fn filter(text: &str) -> Result<Targets, Error> {
    let refused = || Error::Filter { given: text.to_owned() };
    if text.split(',').any(|part| !part.contains('=') && part.trim().parse::<LevelFilter>().is_err()) {
        return Err(refused());
    }
    let targets: Targets = text.parse().map_err(|_| refused())?;
    if targets.iter().any(|(target, _)| target == TALKATIVE) {
        return Ok(targets);
    }
    let level = targets.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::WARN);
    Ok(targets.with_target(TALKATIVE, level))
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not a log filter.
    #[error("{given:?} is no log filter: give a level or levels by module, such as warn,bus=debug")]
    Filter {
        /// What was given.
        given: String,
    },
    /// Not a log format.
    #[error("{given:?} is no log format: give auto, text or json")]
    LogFormat {
        /// What was given.
        given: String,
    },
    /// Not a ratio.
    #[error("{given} is no sample ratio: give a number from 0 to 1")]
    SampleRatio {
        /// What was given.
        given: f64,
    },
    /// Not the address of a collector.
    #[error(
        "{given:?} is no OTLP address: give http://HOST:PORT; for TLS, run a collector next to the service"
    )]
    Endpoint {
        /// What was given.
        given: String,
    },
    /// Another part of the process has called [`crate::init`].
    #[error("telemetry has been started in this process before")]
    AlreadyStarted,
    /// The system gave no thread or socket for the exporter.
    #[error("the exporter of traces cannot start: {reason}")]
    Exporter {
        /// The system's words.
        reason: String,
    },
}

impl From<Error> for contract::error::Error {
    fn from(error: Error) -> Self {
        use contract::error::Code;
        let code = match error {
            Error::AlreadyStarted | Error::Exporter { .. } => Code::INTERNAL,
            _ => Code::TELEMETRY_SETTING_INVALID,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn what_talks_too_much_does_so_when_asked() {
        let says = |text: &str, level| filter(text).unwrap().would_enable("async_nats", &level);
        assert!(says("info", Level::WARN) && !says("info", Level::INFO));
        assert!(!says("error", Level::WARN) && !says("off", Level::ERROR));
        assert!(says("warn,async_nats=debug", Level::DEBUG));
        assert!(filter("info").unwrap().would_enable("bus", &Level::INFO));
    }
}
