//! What is answered when something is refused: a stable code, what went wrong with which value, and what to do.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// A refusal, as it stands in a reply: `{code, message, hint, docs}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Stable and dotted, such as `users.name_taken`.
    pub code: Code,
    /// What went wrong, with the value it went wrong with.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// The page that says more.
    pub docs: String,
}

impl Error {
    /// An error of the catalogue with the message of this case; hint and page come from the catalogue.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let hint = code.entry().map_or("", |entry| entry.hint).to_owned();
        let docs = format!("docs/errors.md#{}", code.anchor());
        Self { code, message: message.into(), hint, docs }
    }

    /// The same with a hint that fits this case better than the catalogue's.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The number for `Nats-Service-Error-Code`: like HTTP's, 500 for a code this build does not know.
    pub fn status(&self) -> u16 {
        self.code.entry().map_or(500, |entry| entry.status)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

/// A value that its type cannot hold.
///
/// Displayed as `code: message`, so that the code survives a decoder that keeps only text; [`Invalid::split`]
/// reads it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Which rule was broken.
    pub code: Code,
    /// The value, shortened and escaped, and why it is refused.
    pub message: String,
}

impl Invalid {
    /// `value` is shown escaped and cut short, so that it can do no harm in a terminal or a log.
    pub fn new(code: Code, value: &str, why: &str) -> Self {
        const SHOWN: usize = 40;
        let shown: String = value.chars().take(SHOWN).collect();
        let dots = if value.chars().nth(SHOWN).is_some() { "…" } else { "" };
        // `Debug` of a string leaves marks of text direction as they are; only ASCII is sure to be harmless.
        let message = format!("\"{}{dots}\" is refused: {why}", shown.escape_default());
        Self { code, message }
    }

    /// Finds an [`Invalid`] in the text of another error.
    pub fn split(text: &str) -> Option<(Code, &str)> {
        let (code, message) = text.split_once(": ")?;
        let entry = CATALOGUE.iter().find(|entry| entry.code == code)?;
        Some((Code(Cow::Borrowed(entry.code)), message))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Invalid {}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid.code, invalid.message)
    }
}

/// The stable name of an error. Codes of newer services are kept as they came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(Cow<'static, str>);

impl Code {
    /// The dotted text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the catalogue says about it.
    pub fn entry(&self) -> Option<&'static Entry> {
        CATALOGUE.iter().find(|entry| entry.code == self.0)
    }

    /// The code with this text, whether or not the catalogue has it.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(Cow::Owned(text.into()))
    }

    fn anchor(&self) -> String {
        self.0.replace('.', "")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One line of the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: &'static str,
    /// Like HTTP's status codes; 4xx is the caller's to mend.
    pub status: u16,
    /// What it means, in one line.
    pub title: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

macro_rules! catalogue {
    ($($name:ident = $code:literal, $status:literal, $title:literal, $hint:literal;)+) => {
        impl Code {
            $(#[doc = $title] pub const $name: Code = Code(Cow::Borrowed($code));)+
        }

        /// Every error that a service or the command line can answer with.
        pub const CATALOGUE: &[Entry] =
            &[$(Entry { code: $code, status: $status, title: $title, hint: $hint }),+];
    };
}

catalogue! {
    REQUEST_NOT_JSON = "request.not_json", 400, "The request is not JSON.", "Send one JSON object, such as '{\"name\":\"alice\"}'; an empty body stands for {}.";
    REQUEST_INVALID = "request.invalid", 400, "A field of the request is missing, unknown or of the wrong kind.", "Compare the fields with the documentation of the request; the message names the one that is wrong.";
    REQUEST_TOO_LARGE = "request.too_large", 413, "The request or its reply is larger than one message may be.", "Send it in smaller parts; `vpn users import` does so by itself.";
    REQUEST_TIMEOUT = "request.timeout", 504, "The service did not finish in time.", "Look at what it was doing by its trace id, then try again; a change is safe to repeat.";
    SERVICE_OVERLOADED = "service.overloaded", 503, "More requests are waiting than the service takes on.", "Try again in a moment, or run more replicas of the service.";
    SERVICE_PANICKED = "service.panicked", 500, "The service met a bug while it worked on the request; it goes on serving.", "Report the trace id and the log line that names it.";
    SERVICE_STOPPING = "service.stopping", 503, "The service is shutting down.", "Try again: another replica or the restarted one answers.";

    BUS_UNREACHABLE = "bus.unreachable", 503, "No nats-server answers at the address.", "Check the URL (`--nats`, NATS_URL or the nats context) and that the server runs; `vpn up` starts one.";
    BUS_NO_RESPONDERS = "bus.no_responders", 503, "Nobody on the bus serves this request.", "Start the service: `vpnd all`, or see `vpn status` for what runs.";
    BUS_TIMEOUT = "bus.timeout", 504, "No answer came before the deadline.", "See `vpn status`; the change may have been made, so look before you repeat it.";
    BUS_NOT_ALLOWED = "bus.not_allowed", 403, "The bus refuses this subject or these credentials.", "Check the credentials of the nats context, and its permissions with the bus's operator.";
    BUS_TOO_OLD = "bus.too_old", 505, "The nats-server is older than this system needs.", "Install nats-server 2.14.4 or newer; 2.15.2 is tested.";
    BUS_NO_JETSTREAM = "bus.no_jetstream", 503, "The nats-server runs without JetStream.", "Start it with `jetstream { sync_interval: always }` in its configuration.";
    BUS_STORAGE_FULL = "bus.storage_full", 507, "JetStream cannot store any more.", "Free space on the bus's disk or raise its limits; nothing that was acknowledged is lost.";
    BUS_STORE_FAILED = "bus.store_failed", 503, "JetStream did not store the change.", "Try again; if it stays, see the log of nats-server.";
    BUS_DRIFT = "bus.drift", 500, "A stream or bucket exists with settings that cannot be brought in line.", "Compare it with the settings in the message; a bucket made by hand must be removed or recreated.";
    BUS_CONFLICT = "bus.conflict", 409, "Somebody else changed the same thing at the same moment.", "Read it again and repeat the change.";

    USERS_NAME_INVALID = "users.name_invalid", 400, "That cannot be the name of a user.", "Use 1 to 64 of a-z, 0-9, - and _, first a letter or a digit.";
    USERS_NAME_TAKEN = "users.name_taken", 409, "There is a user with that name already.", "Pick another name, or change this one: vpn users update NAME.";
    USERS_NOT_FOUND = "users.not_found", 404, "There is no user with that name.", "See `vpn users list`.";
    USERS_TAG_INVALID = "users.tag_invalid", 400, "That cannot be a tag.", "Use 1 to 64 of a-z, 0-9, - and _, first a letter or a digit; at most 32 tags.";
    USERS_NOTE_INVALID = "users.note_invalid", 400, "That cannot be a note.", "Use at most 500 characters on one line.";
    USERS_QUOTA_INVALID = "users.quota_invalid", 400, "That is not an amount of data a quota can have.", "Give bytes, such as 50000000000, \"50GB\" or \"50GiB\"; at least 1 and at most 8 EiB.";
    USERS_EXPIRY_PAST = "users.expiry_past", 400, "The expiry lies in the past.", "Give a time to come, as RFC 3339 in UTC, such as 2030-01-31T00:00:00Z.";
    USERS_BATCH_INVALID = "users.batch_invalid", 400, "The batch of users cannot be taken.", "Send at least one user, each name once.";

    KEYS_NOT_ISSUED = "keys.not_issued", 404, "The credentials are not there (yet).", "They follow a user's or server's creation within milliseconds; if they stay away, see `vpn keys status` and the log of `keys`.";
    KEYS_SEALED = "keys.sealed", 500, "A sealed key cannot be opened.", "It was sealed with another master key: start `keys` with the right one.";
    KEYS_MASTER_MISSING = "keys.master_missing", 500, "The master key cannot be read.", "Point VPN_MASTER_KEY_FILE at a file of mode 0600 that holds it; `vpnd all` makes one at the first start.";
    KEYS_MASTER_EXPOSED = "keys.master_exposed", 500, "The master key's file can be read by others.", "chmod 600 the file, and rotate the keys if others use this machine.";

    FLEET_SERVER_NAME_INVALID = "fleet.server_name_invalid", 400, "That cannot be the name of a server.", "Use 1 to 64 of a-z, 0-9, - and _, first a letter or a digit.";
    FLEET_NODE_NAME_INVALID = "fleet.node_name_invalid", 400, "That cannot be the name of a node.", "Use 1 to 64 of a-z, 0-9, - and _, first a letter or a digit.";
    FLEET_IMAGE_INVALID = "fleet.image_invalid", 400, "That is not a reference to a container image.", "Give name:tag or name@sha256:digest.";
    FLEET_PORT_INVALID = "fleet.port_invalid", 400, "That is not a port.", "Give a number from 1 to 65535.";
    FLEET_ADDRESS_INVALID = "fleet.address_invalid", 400, "That is not an address of the form host:port.", "Give a host name or an address and a port, such as www.example.org:443 or [2001:db8::1]:443.";
    FLEET_SERVER_EXISTS = "fleet.server_exists", 409, "There is a server with that name already.", "Pick another name, or change this one: vpn servers update NAME.";
    FLEET_SERVER_NOT_FOUND = "fleet.server_not_found", 404, "There is no server with that name.", "See `vpn servers list`.";
    FLEET_NODE_NOT_FOUND = "fleet.node_not_found", 404, "No node of that name has announced itself.", "See `vpn nodes list`; a node appears when its `vpnd runtime` connects.";
    FLEET_NO_NODE = "fleet.no_node", 503, "No node can take the server.", "See `vpn nodes list`: a node must be heard, not cordoned, and have the port free.";
    FLEET_PORT_TAKEN = "fleet.port_taken", 409, "Another server holds that port on the node.", "Pick another port or another node; `vpn servers list` shows who holds it.";
    FLEET_SETTING_INVALID = "fleet.setting_invalid", 400, "A setting does not fit the server's protocol or another setting.", "See `vpn servers create --help` for what each protocol takes.";
    FLEET_LIMIT_REACHED = "fleet.limit_reached", 409, "There is no room for another server or node.", "Delete what is not needed: vpn servers delete NAME.";
    FLEET_DEST_NOT_TLS13 = "fleet.dest_not_tls13", 422, "The REALITY dest does not speak TLS 1.3 with X25519.", "Pick a site that does, near the node; a large site behind no CDN of the client's is best.";

    RUNTIME_BACKEND_UNREACHABLE = "runtime.backend_unreachable", 503, "The container daemon does not answer.", "Start it, or check the socket and its permissions; `vpn doctor` says what was tried.";
    RUNTIME_BACKEND_TIMEOUT = "runtime.backend_timeout", 504, "The container daemon did not answer in time.", "See the daemon's log; the node tries again by itself.";
    RUNTIME_BACKEND_REFUSED = "runtime.backend_refused", 502, "The container runtime refused the call.", "The message is the runtime's own; `vpn doctor` says what it can and cannot do.";
    RUNTIME_INSTANCE_CONFLICT = "runtime.instance_conflict", 409, "Something else has the instance's name: one of an older revision, or a stranger.", "The node replaces its own by itself; remove a stranger's container by hand.";
    RUNTIME_INSTANCE_MISSING = "runtime.instance_missing", 404, "There is no instance for that server on the node.", "The node makes it by itself when the server is desired: see `vpn servers list`.";
    RUNTIME_IMAGE_MISSING = "runtime.image_missing", 424, "The server's image is neither here nor to be had.", "Build it with `make images`, or give another: vpn servers update NAME --image …";
    RUNTIME_PORT_IN_USE = "runtime.port_in_use", 409, "A program on the node holds the port.", "Stop that program, or move the server: vpn servers update NAME --port …";
    RUNTIME_PROGRAM_MISSING = "runtime.program_missing", 424, "A program that the engine needs is not installed on the node.", "Install it or run `make setup`; the message names it.";
    RUNTIME_NOT_PERMITTED = "runtime.not_permitted", 403, "The node agent lacks a right that the server needs.", "Run the agent with the right that the message names, or use a container backend.";
    RUNTIME_ENGINE_FAILED = "runtime.engine_failed", 502, "The VPN engine refused its configuration, ended or did not come up.", "The message holds its last words; `vpn servers list` shows when it is up again.";
    RUNTIME_DISK_FULL = "runtime.disk_full", 507, "The node's disk is full.", "Free space on the node; it goes on by itself.";
    RUNTIME_TARGET_UNREACHABLE = "runtime.target_unreachable", 424, "The node cannot reach the address it was asked to look at.", "Check the address, and the node's way out.";

    STATS_NOT_FOUND = "stats.not_found", 404, "Nothing is known of the traffic of a server or node of that name.", "See `vpn stats top servers` and `vpn stats top nodes`.";
    STATS_STORE_FAILED = "stats.store_failed", 507, "What was counted cannot be kept on disk.", "Make room in the service's data folder, and see that it may write there; what comes meanwhile waits on the bus.";

    TELEMETRY_SETTING_INVALID = "telemetry.setting_invalid", 400, "A setting of logs or traces cannot be used.", "The message names it and says what it takes.";

    CLI_USAGE = "cli.usage", 400, "The command line cannot be understood.", "See `vpn --help`.";
    CLI_CONTEXT_INVALID = "cli.context_invalid", 400, "The nats context cannot be used.", "See `nats context ls`, or give `--nats URL`.";
    CLI_FILE = "cli.file", 500, "A file cannot be read or written.", "Check the path and its permissions.";
    CLI_UNKNOWN_CODE = "cli.unknown_code", 404, "No error has that code.", "See docs/errors.md for all of them.";
    CLI_START_FAILED = "cli.start_failed", 500, "A program that `vpn up` starts did not come up.", "The message holds its last words, and names its log.";

    INTERNAL = "internal", 500, "Something that cannot happen did.", "Report the message and the trace id.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_dotted_and_alone() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in CATALOGUE {
            assert!(seen.insert(entry.code), "{} stands twice", entry.code);
            assert!(
                entry.code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c))
            );
            assert!((400..600).contains(&entry.status), "{}", entry.code);
            assert!(!entry.hint.is_empty() && entry.title.ends_with('.'), "{}", entry.code);
        }
    }

    #[test]
    fn a_code_survives_a_decoder_that_keeps_only_text() {
        let error = serde_json::from_str::<crate::UserName>("\"../x\"").unwrap_err().to_string();
        let (code, message) = Invalid::split(&error).unwrap();
        assert_eq!(code, Code::USERS_NAME_INVALID);
        assert!(message.contains("../x"), "{message}");
    }

    #[test]
    fn a_code_of_a_newer_service_is_kept() {
        let json = r#"{"code":"users.from_the_future","message":"m","hint":"h","docs":"d"}"#;
        let error: Error = serde_json::from_str(json).unwrap();
        assert_eq!(error.code.as_str(), "users.from_the_future");
        assert_eq!(error.status(), 500);
    }
}
