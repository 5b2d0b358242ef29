//! What the service is told at its start.

use std::path::PathBuf;

/// How the service is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps what it has counted.
    pub state_dir: PathBuf,
}
