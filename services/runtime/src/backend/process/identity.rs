//! Which process that was: a pid, and what keeps it from being somebody else's.
//!
//! Pids are used again. A process is named for all time by its boot, its pid and the tick of that boot in which it
//! began (`/proc/PID/stat`, proc_pid_stat(5), field 22).

use std::fs;

use rustix::process::{Pid, Signal};

/// A process, for all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// In ticks since the boot.
    began: u64,
    /// The boot it was in is this one.
    this_boot: bool,
}

impl ProcessId {
    /// Reads what a child wrote before it became the engine: the boot's id, then its `/proc/self/stat`.
    /// `None` while it has not written it to the end.
    pub(super) fn parse(written: &str, boot: &str) -> Option<Self> {
        let line = written.strip_suffix('\n')?;
        let (written_in, stat) = line.split_once(' ')?;
        let (pid, began, _) = fields(stat)?;
        Some(Self { pid, began, this_boot: written_in == boot })
    }

    /// Our own child, which can't be anybody else as long as we have not waited for it.
    pub(super) fn of_child(pid: u32) -> Option<Self> {
        Some(Self { pid, began: began(pid)?, this_boot: true })
    }

    /// Whether it runs: one that has ended but was not waited for does not.
    pub(super) fn is_alive(self) -> bool {
        self.this_boot
            && fs::read_to_string(format!("/proc/{}/stat", self.pid))
                .ok()
                .and_then(|stat| {
                    fields(&stat).map(|(_, began, state)| began == self.began && !"ZXx".contains(state))
                })
                .unwrap_or(false)
    }

    /// To it and to all of its group.
    pub(super) fn signal(self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        if self.is_alive() {
            // Before its first step, into a session of its own, it has no group of its own. Never to both: engines
            // take a second SIGTERM for impatience.
            let _ = rustix::process::kill_process_group(pid, signal)
                .or_else(|_| rustix::process::kill_process(pid, signal));
        }
    }

    /// What an instance that ended left behind in its group.
    pub(super) fn kill_leftovers(self) {
        // The group lives on under the number for as long as anybody is in it, so no stranger can have it; and
        // an empty one is no group.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }

    /// A descriptor that becomes readable when it ends; `None` where the kernel has none to give.
    pub(super) fn descriptor(self) -> Option<std::os::fd::OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    }
}

/// What tells this boot of the machine from all others.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process began, in ticks since the boot; none where there is no such process.
pub(crate) fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    fields(&stat).map(|(_, began, _)| began)
}

/// Pid, start and state. The program's name, which comes second in parentheses, may hold anything, parentheses too.
fn fields(stat: &str) -> Option<(u32, u64, &str)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let mut tail = tail.split_ascii_whitespace();
    let state = tail.next()?;
    // The third field was the state; the 22nd is 18 further on.
    Some((pid, tail.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ourselves(boot: &str) -> Option<ProcessId> {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        ProcessId::parse(&format!("{} {stat}", self::boot()), boot)
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let this = ourselves(&boot()).unwrap();
        assert_eq!(this.pid, std::process::id());
        assert!(this.is_alive());
        assert!(!ProcessId { began: this.began + 1, ..this }.is_alive(), "same pid, begun later");
        assert!(!ourselves("another-boot").unwrap().is_alive(), "same pid and tick of another boot");
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "77 (a) b (c) R 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10";
        assert_eq!(fields(stat), Some((77, 4711, "R")));
        assert_eq!(ProcessId::parse(&format!("boot {stat}"), "boot"), None, "cut off: no end of line yet");
    }

    #[test]
    fn the_dead_are_not_alive_before_they_are_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let process = ProcessId::parse(&format!("{} {stat}", boot()), &boot()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process.is_alive() {
            assert!(std::time::Instant::now() < deadline, "`true` does not end");
            std::thread::yield_now();
        }
        assert!(child.wait().unwrap().success());
    }
}
