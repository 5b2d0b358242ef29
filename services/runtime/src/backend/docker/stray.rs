//! Processes of a container that the daemon says does not run.
//!
//! A daemon that is killed between telling containerd to start a container and writing that down has a container that
//! was never started, as it says, whose process runs all the same (seen with Docker 20.10). Starting it is
//! refused then ("id already in use"), and removing it leaves the process behind. It would hold the engine's
//! socket in the run directory, and serve people who are no users any more, with nobody to know of it.
//!
//! Such a process is found by its cgroup, which bears the container's id whatever the daemon's cgroup driver is.

use std::{fs, time::Duration};

use contract::Code;
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::Error;

/// The kernel needs milliseconds.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Kills all processes of a container that should have none. Says whether there were any.
pub(super) async fn kill(id: &str) -> Result<bool, Error> {
    // Anything shorter could be part of another's path.
    if id.len() < 64 {
        return Ok(false);
    }
    let deadline = Instant::now() + GONE_WITHIN;
    let mut any = false;
    loop {
        let found = find(id);
        if found.is_empty() {
            return Ok(any);
        }
        tracing::warn!(container = id, pids = ?found, "they run, though the daemon knows nothing of it: killed");
        any = true;
        for pid in &found {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        if Instant::now() >= deadline {
            let message =
                format!("processes {found:?} of container {id}, which does not run, cannot be killed");
            return Err(Error::new(Code::RUNTIME_BACKEND_TIMEOUT, message));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn find(id: &str) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_the_container = |process: &fs::DirEntry| {
        fs::read_to_string(process.path().join("cgroup")).is_ok_and(|groups| groups.contains(id))
            && !is_dead(process)
    };
    let pid = |process: fs::DirEntry| Pid::from_raw(process.file_name().to_str()?.parse().ok()?);
    processes.filter(of_the_container).filter_map(pid).collect()
}

/// Killed, but its parent has not looked yet.
fn is_dead(process: &fs::DirEntry) -> bool {
    let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.strip_prefix("State:").is_some_and(|state| state.trim().starts_with(['Z', 'X'])))
}
