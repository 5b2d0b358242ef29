//! What runs instances. One trait, [`ContainerRuntime`]; behind it:
//!
//! - [`docker`]   the Docker daemon, by its socket
//! - [`process`]  supervised child processes, for hosts without a daemon
//! - `fake`       scripted, for tests of logic (feature `fake`)
//!
//! and beside them:
//!
//! - [`detect`]   which of them, by choice or by looking
//! - `outbox`     notices on their way to whoever listens, bounded
//! - `run_dir`    who an instance runs as, and the directory it shares with the agent
//! - `words`      the last lines that an instance wrote, fit for an error message
//!
//! Every call is idempotent: it is named by what it leads to, and finding that already done is success.

pub mod detect;
pub mod docker;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod outbox;
pub mod process;
mod run_dir;
mod words;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use contract::{
    Code, ImageRef, NodeName, Port, ServerName, fleet::ServerId, runtime::Check, value::Transport,
};
use tokio::sync::mpsc;

/// Where [`Spec::run_dir`] appears inside a container.
pub const RUN_DIR_INSIDE: &str = "/run/vpn";
/// The user and group that containers run as, where their rights allow it (that of `distroless`' nonroot).
pub const CONTAINER_UID: u32 = 65532;

/// The exit code of an instance whose end was seen, but not its code: that of a process which was not our child.
pub const UNKNOWN_EXIT: i32 = -1;

/// What an instance must be made like. Two specs with the same [`Spec::revision`] are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// For which server; together with the node it names the container.
    pub server: ServerName,
    /// For which server, for all time.
    pub server_id: ServerId,
    /// Changes when, and only when, the container must be made anew.
    pub revision: String,
    /// What a container is made from.
    pub image: ImageRef,
    /// What a child process is started from: a program to be found on the PATH or by its path.
    pub program: PathBuf,
    /// The arguments of the image's entry point, or of the program.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Ports that clients connect to, the same inside and outside.
    pub ports: Vec<(Port, Transport)>,
    /// A directory of the host, mounted read-write at [`RUN_DIR_INSIDE`]; see [`ContainerRuntime::inside`].
    pub run_dir: PathBuf,
    /// What it may do beyond computing and talking.
    pub rights: Rights,
    /// Memory in bytes.
    pub memory: u64,
    /// Threads and processes.
    pub pids: u32,
    /// The W3C `traceparent` of what made it, as a label; no part of the revision.
    pub traceparent: Option<String>,
}

/// What an instance may do beyond computing and talking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Nothing: no capability, an unprivileged user.
    None,
    /// Set up a network of its own: `CAP_NET_ADMIN` in its own network namespace and `/dev/net/tun`. Its
    /// program gives the capability up when its network stands.
    Network,
}

/// An instance as the backend sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// For which server.
    pub server: ServerName,
    /// For which server, for all time.
    pub server_id: ServerId,
    /// The [`Spec::revision`] it was made with.
    pub revision: String,
    /// The W3C `traceparent` of what made it.
    pub traceparent: Option<String>,
    /// How it is.
    pub state: ContainerState,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its first process has this id on the host; its network namespace is `/proc/PID/ns/net`.
    Running {
        /// The process id on the host.
        pid: u32,
    },
    /// It ended.
    Exited {
        /// With this code; 128 + n when signal n ended it, and [`UNKNOWN_EXIT`] when nobody was there to see.
        code: i32,
    },
}

/// Something happened to an instance of ours: look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// To this one.
    Container {
        /// For which server.
        server: ServerName,
        /// What.
        kind: contract::runtime::ContainerEventKind,
        /// The W3C `traceparent` of what made the instance: daemons carry no trace, so its label does.
        traceparent: Option<String>,
    },
    /// The event stream was interrupted and is there again: anything may have happened meanwhile.
    Gap,
}

/// A container runtime.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// `docker`, `process`, …
    fn name(&self) -> &'static str;

    /// The daemon's version, for people.
    async fn version(&self) -> Result<String, Error>;

    /// Where the instance sees its `run_dir`.
    fn inside(&self, run_dir: &Path) -> PathBuf;

    /// All instances of this node that were made here, running or not.
    async fn list(&self) -> Result<Vec<Container>, Error>;

    /// The instance of one server, running or not; none where none was made here.
    async fn find(&self, server: &ServerName) -> Result<Option<Container>, Error>;

    /// Makes the image available, from where the runtime gets images. Worth a call when [`Self::create`] says
    /// that it is missing, and not before: an image that is there costs nothing then.
    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Error>;

    /// Makes the instance without starting it. One of the same revision counts as made; one of another
    /// revision is `runtime.instance_conflict` and stays.
    async fn create(&self, spec: &Spec) -> Result<(), Error>;

    /// Starts it; one that runs counts as started. The run directory and what is in it are handed to the user
    /// that the instance runs as first, so that files which the agent wrote as itself can be read inside.
    async fn start(&self, spec: &Spec) -> Result<(), Error>;

    /// Stops it within the grace period (SIGTERM, then SIGKILL); one that is stopped or gone counts as stopped.
    async fn stop(&self, server: &ServerName, grace: std::time::Duration) -> Result<(), Error>;

    /// Removes it, running or not; one that is gone counts as removed.
    async fn remove(&self, server: &ServerName) -> Result<(), Error>;

    /// The last lines that it wrote, at most 20 lines and 4 KiB, for error messages.
    async fn last_words(&self, server: &ServerName) -> Result<String, Error>;

    /// Notices about instances of this node, from now on. Reconnects by itself and says [`Notice::Gap`] then.
    /// Ends when the receiver is dropped.
    fn notices(&self) -> mpsc::Receiver<Notice>;

    /// What can be said about it for `vpn doctor`.
    async fn checks(&self) -> Vec<Check>;
}

/// What a backend's call failed with.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// A code of the catalogue.
    pub code: Code,
    /// What went wrong, with which value.
    pub message: String,
}

impl Error {
    /// An error of the catalogue.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What stopped us while we were `doing` something to a file.
    pub(crate) fn file(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::RUNTIME_DISK_FULL,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Code::RUNTIME_NOT_PERMITTED,
            _ => Code::RUNTIME_BACKEND_REFUSED,
        };
        Self::new(code, format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl From<Error> for contract::Error {
    fn from(error: Error) -> Self {
        Self::new(error.code, error.message)
    }
}

/// The name of the container or directory of a server on a node. The dots keep node `a-b` with server `c` apart
/// from node `a` with server `b-c`: no name has one.
pub fn instance_name(node: &NodeName, server: &ServerName) -> String {
    format!("vpn.{node}.{server}")
}
