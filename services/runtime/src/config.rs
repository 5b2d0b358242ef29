//! What the agent is told. The environment is read by `vpnd`.

use std::{path::PathBuf, time::Duration};

use contract::{ImageRef, NodeName};

use crate::backend::detect::Choice;

/// What the agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of this node.
    pub node: NodeName,
    /// The public name or address that links carry; detected when absent.
    pub address: Option<String>,
    /// Which backend.
    pub backend: Choice,
    /// The Docker daemon's socket.
    pub docker_socket: PathBuf,
    /// What survives a restart of the host: the node's key, the last desired state (private parts sealed).
    pub state_dir: PathBuf,
    /// What instances share with the agent: configurations and control sockets. Best on a tmpfs, because engines
    /// read their users' secrets there.
    pub run_dir: PathBuf,
    /// Where programs are looked for, as in `PATH`.
    pub search: Vec<PathBuf>,
    /// The Xray program for child processes.
    pub xray: PathBuf,
    /// Our own program, which is the WireGuard device of child processes.
    pub vpnd: PathBuf,
    /// The image of Xray servers that name none.
    pub xray_image: ImageRef,
    /// The image of WireGuard servers that name none.
    pub wireguard_image: ImageRef,
}

/// An agent that starts waits so long for the bus before it serves what was desired last: that may be two seconds old,
/// and would end the sessions of users who came since.
pub const BUS_WITHIN: Duration = Duration::from_secs(2);
/// Without an event, everything is compared this often: events can be lost, and hands can change containers.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);
/// An engine answers 100 ms after its start; a busy host takes longer.
pub const READY_WITHIN: Duration = Duration::from_secs(15);
/// A stopped engine gets so long to end by itself. Nothing it holds is worth waiting for.
pub const STOP_GRACE: Duration = Duration::from_secs(2);
/// Between a change of users and the file that an engine starts from: many changes make one file.
pub const SAVE_AFTER: Duration = Duration::from_millis(700);
/// The first and the longest pause before an instance that failed is tried again.
pub const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// An instance that was started so long ago has proven itself: its next failure is retried at once. More than the
/// longest pause and the longest start together, or waiting would count as running.
pub const PROVEN_AFTER: Duration = Duration::from_secs(30);
