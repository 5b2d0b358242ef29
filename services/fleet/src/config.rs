//! The numbers. They come from the contract; tests shorten them.

use std::time::Duration;

use contract::fleet::LOST_AFTER_MILLIS;

/// How the service is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// A node that was not heard for so long is lost.
    pub lost_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { lost_after: Duration::from_millis(LOST_AFTER_MILLIS) }
    }
}

/// Servers and nodes, each, at most: as many as one machine is asked to carry, and a list of them (about 600
/// bytes each) still fits one message of 1 MiB.
pub const NAMES_MAX: usize = 1_000;
/// Server names of one REALITY server: a certificate rarely has more that are worth imitating.
pub const SERVER_NAMES_MAX: usize = 16;
/// Private ranges that one server lets through: each is a rule that the engine walks for each connection.
pub const ALLOW_PRIVATE_MAX: usize = 64;
/// Memory below which no engine starts: Xray alone has 30 MB of code.
pub const MEMORY_MIN: u64 = 32 * 1024 * 1024;
/// Threads below which no engine starts: a Go program has about ten of its own.
pub const PIDS_MIN: u32 = 16;
/// Text that an agent says of itself, such as a version: shown on one line of a table.
pub const TEXT_MAX: usize = 200;
/// How long a node may look at a dest: longer than a slow site's handshake, well within a caller's 8 s.
pub const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// How often a change is decided anew because another replica's came first: each time that one got on, and
/// replicas are few.
pub const CONFLICTS_MAX: usize = 64;
