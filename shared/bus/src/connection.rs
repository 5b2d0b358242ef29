//! The connection.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, RequestErrorKind, connection::State, jetstream,
};
use contract::{Code, Error, Timestamp};
use tokio::sync::{broadcast, watch};

use crate::{Auth, Config, config::shown};

/// The oldest nats-server whose atomic batches, consumer resets and scheduled messages this system relies on.
const OLDEST_SERVER: semver::Version = semver::Version::new(2, 14, 4);
/// How long a connection may take to stand: well above a slow link's round trips, below a person's patience.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long JetStream may take for one step; a caller's own deadline can be shorter.
pub(crate) const JETSTREAM_WITHIN: Duration = Duration::from_secs(3);
/// How long a round trip to the server is waited for at a stop.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);
/// What JetStream says about itself: asked for at the start, and who may not ask this is told so.
const INFO: &str = "$JS.API.INFO";
/// Between two attempts to reconnect: recovery is to take less than a second.
const RECONNECT_EVERY: Duration = Duration::from_millis(100);
/// Refusals that nobody has looked at yet; they only speed up an error that would come anyway.
const REFUSALS_KEPT: usize = 64;

/// A connection to the bus. Clones share it.
#[derive(Clone)]
pub struct Bus {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Who is connected: a service, or `vpn`.
    pub(crate) name: String,
    /// Counts connects, so that subscriptions notice that they have to be made anew.
    pub(crate) connects: watch::Receiver<u64>,
    /// Permission violations, as the server words them.
    pub(crate) refusals: broadcast::Sender<String>,
}

impl Bus {
    /// Connects. Fails at once where nothing answers; what answers must be new enough and have JetStream.
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        let (connected, mut connects) = watch::channel(0);
        let (refusals, mut refused) = broadcast::channel(REFUSALS_KEPT);
        let telling = refusals.clone();
        let options = options(config)?
            .name(&config.name)
            .connection_timeout(CONNECT_WITHIN)
            .reconnect_delay_callback(|attempt| if attempt <= 1 { Duration::ZERO } else { RECONNECT_EVERY })
            .event_callback(move |event| {
                match event {
                    Event::Connected => {
                        connected.send_modify(|count| *count += 1);
                        if *connected.borrow() > 1 {
                            tracing::info!("the bus is there again");
                        }
                    }
                    Event::Disconnected => tracing::warn!("the bus is gone; trying to reconnect"),
                    Event::ServerError(error) => {
                        tracing::warn!(%error, "the bus refuses");
                        let _ = telling.send(error.to_string());
                    }
                    Event::SlowConsumer(_) => {
                        tracing::error!("the bus delivered faster than this service read")
                    }
                    _ => {}
                }
                std::future::ready(())
            });
        let unreachable = |why: &dyn std::fmt::Display| {
            Error::new(
                Code::BUS_UNREACHABLE,
                format!("{} does not answer as a nats-server: {why}", shown(&config.url)),
            )
        };
        let urls: Vec<&str> = config.url.split(',').map(str::trim).collect();
        let client = options.connect(urls.as_slice()).await.map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => Error::new(
                Code::BUS_NOT_ALLOWED,
                format!("{} refuses these credentials: {error}", shown(&config.url)),
            ),
            _ => unreachable(&error),
        })?;
        check_version(&client)?;
        // It is told by another task: told later, it would look like a connection made anew.
        let _ = tokio::time::timeout(CONNECT_WITHIN, connects.wait_for(|count| *count > 0)).await;
        let jetstream = jetstream::ContextBuilder::new().timeout(JETSTREAM_WITHIN).build(client.clone());
        check_jetstream(&client, &mut refused).await?;
        let inner = Inner { name: config.name.clone(), connects, refusals };
        Ok(Self { client, jetstream, inner: Arc::new(inner) })
    }

    /// Who is connected: a service, or `vpn`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The version of the nats-server.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// The number of this connection, counted from the first; none while there is none. Where it changed,
    /// messages may have been missed.
    pub fn connection(&self) -> Option<u64> {
        match self.client.connection_state() {
            State::Connected => Some(*self.inner.connects.borrow()),
            State::Pending | State::Disconnected => None,
        }
    }

    /// Runs `exchange` until it ends, or none when the connection was made anew meanwhile: an answer that was
    /// under way will not come any more.
    pub(crate) async fn while_connected<F: Future>(&self, exchange: F) -> Option<F::Output> {
        let mut connects = self.inner.connects.clone();
        connects.mark_unchanged();
        tokio::select! {
            biased;
            ended = exchange => Some(ended),
            Ok(()) = connects.changed() => None,
        }
    }

    /// What the server's clock says; none where this bucket, which it is asked about, does not exist yet.
    pub async fn server_time(&self, bucket: contract::Bucket) -> Result<Option<Timestamp>, Error> {
        /// The one field that matters here; the server puts its time into it.
        #[derive(serde::Deserialize)]
        struct Info {
            ts: Option<Timestamp>,
        }
        let asked =
            self.client.request(format!("$JS.API.STREAM.INFO.KV_{}", bucket.name), bytes::Bytes::new());
        let no_answer = |why: &dyn std::fmt::Display| {
            Error::new(Code::BUS_TIMEOUT, format!("JetStream does not say what time it has: {why}"))
        };
        let reply = tokio::time::timeout(JETSTREAM_WITHIN, asked).await.map_err(|late| no_answer(&late))?;
        let reply = reply.map_err(|error| no_answer(&error))?;
        serde_json::from_slice(&reply.payload).map(|info: Info| info.ts).map_err(|error| no_answer(&error))
    }

    /// Waits until the server has taken note of all that was said on this connection, such as that nobody serves a
    /// subject any more.
    pub(crate) async fn settle(&self) {
        let _ = tokio::time::timeout(SETTLE_WITHIN, self.client.request(INFO, bytes::Bytes::new())).await;
    }

    /// Waits until everything that was published is on its way to the server.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(JETSTREAM_WITHIN, self.client.flush()).await;
    }
}

fn options(config: &Config) -> Result<ConnectOptions, Error> {
    let unreadable = |path: &std::path::Path, error: std::io::Error| {
        Error::new(Code::CLI_FILE, format!("{}: {error}", path.display()))
    };
    let mut options = ConnectOptions::new();
    options = match &config.auth {
        Auth::None => options,
        Auth::Credentials(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
            options.credentials(&text).map_err(|error| unreadable(path, error))?
        }
        Auth::Nkey(path) => {
            let seed = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
            options.nkey(seed.trim().to_owned())
        }
        Auth::Password { user, password } => options.user_and_password(user.clone(), password.clone()),
        Auth::Token(token) => options.token(token.clone()),
    };
    if let Some(path) = &config.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    Ok(options)
}

fn check_version(client: &Client) -> Result<(), Error> {
    let text = client.server_info().version;
    match semver::Version::parse(&text) {
        Ok(version) if version >= OLDEST_SERVER => Ok(()),
        _ => Err(Error::new(
            Code::BUS_TOO_OLD,
            format!("this nats-server is {text}; this system needs {OLDEST_SERVER} or newer"),
        )),
    }
}

/// What nats-server (2.15) answers where JetStream is configured away: `not enabled for account`, `not enabled`.
const NOT_ENABLED: [u64; 2] = [10039, 10076];

/// A server without JetStream has nobody on this subject; one with it answers at once. One that starts, or a cluster
/// without a leader, says nothing or that it cannot now: that passes.
async fn check_jetstream(client: &Client, refusals: &mut broadcast::Receiver<String>) -> Result<(), Error> {
    let away = |why: &dyn std::fmt::Display| {
        Error::new(Code::BUS_TIMEOUT, format!("JetStream is away for now: {why}"))
            .with_hint("Try again; if it stays, see the log of nats-server.")
    };
    let asked = tokio::time::timeout(CONNECT_WITHIN, client.request(INFO, bytes::Bytes::new()));
    tokio::pin!(asked);
    let reply = loop {
        tokio::select! {
            reply = &mut asked => break reply,
            Ok(refusal) = refusals.recv() => if refusal.contains(&format!("\"{INFO}\"")) {
                return Err(Error::new(Code::BUS_NOT_ALLOWED, refusal));
            },
        }
    };
    let refusal = match reply {
        Ok(Ok(reply)) => match serde_json::from_slice(&reply.payload) {
            Ok(Info { error: None }) => return Ok(()),
            Ok(Info { error: Some(refusal) }) => refusal,
            Err(error) => return Err(away(&error)),
        },
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(Error::new(Code::BUS_NO_JETSTREAM, "nobody answers for JetStream"));
        }
        Ok(Err(error)) => return Err(away(&error)),
        Err(_) => return Err(away(&"no answer within 3 s")),
    };
    if NOT_ENABLED.contains(&refusal.error_code().0) {
        return Err(Error::new(Code::BUS_NO_JETSTREAM, format!("JetStream is not usable here: {refusal}")));
    }
    Err(away(&refusal))
}

/// The one field that matters of what nats-server says about JetStream.
#[derive(serde::Deserialize)]
struct Info {
    error: Option<jetstream::Error>,
}
