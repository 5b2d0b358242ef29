//! Limits of memory and processes, where the host has them: cgroups, version 1, 2 or both (cgroups(7)).
//!
//! An instance has a group `vpn/<name>` in each hierarchy that is needed. Where none can be made (no root, a container
//! without rights on its own cgroups) it runs without that limit, and `vpn doctor` says so; `RLIMIT_NPROC` would be no
//! replacement, for it counts all threads of a user and an engine dies when it can't have one more.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal};

/// The folder of all of ours.
const OURS: &str = "vpn";
/// A group is gone once the kernel has buried its last process: looked at so often, with such waits.
const TRIES: u32 = 100;
const WAIT: Duration = Duration::from_millis(10);

/// The hierarchies in which groups are made.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
    memory: bool,
    pids: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroups {
    /// Looks at what is mounted, and tries.
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let controllers =
            |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let mut hierarchies = hierarchies(&mounts, controllers);
        hierarchies.retain(|hierarchy| match hierarchy.prepare() {
            Ok(()) => {
                hierarchy.leave();
                true
            }
            Err(error) => {
                tracing::debug!(cgroup = %hierarchy.root.display(), %error, "not ours to use");
                false
            }
        });
        Self { hierarchies }
    }

    pub(super) fn limits_memory(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.memory)
    }

    pub(super) fn limits_pids(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.pids)
    }

    /// Makes the groups anew and returns them. What can't be made is left out: a server without a limit is better
    /// than none.
    pub(super) async fn make(&self, name: &str, memory: u64, pids: u32) -> Vec<PathBuf> {
        self.remove(name).await;
        let make = |hierarchy: &Hierarchy| match hierarchy.make(name, memory, pids) {
            Ok(group) => Some(group),
            Err(error) => {
                let group = hierarchy.group(name);
                tracing::warn!(cgroup = %group.display(), %error, "no limit: the group can't be made");
                None
            }
        };
        self.hierarchies.iter().filter_map(make).collect()
    }

    /// Kills whoever is in the groups.
    pub(super) fn kill(&self, name: &str) {
        for hierarchy in &self.hierarchies {
            let group = hierarchy.group(name);
            // Since Linux 5.14, version 2 only: at once, forks included.
            if fs::write(group.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Removes the groups, with whoever is in them.
    pub(super) async fn remove(&self, name: &str) {
        for hierarchy in &self.hierarchies {
            let group = hierarchy.group(name);
            for _ in 0..TRIES {
                match fs::remove_dir(&group) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    _ => break,
                }
                self.kill(name);
                tokio::time::sleep(WAIT).await;
            }
            hierarchy.leave();
        }
    }
}

impl Hierarchy {
    fn group(&self, name: &str) -> PathBuf {
        self.root.join(OURS).join(name)
    }

    /// Makes our folder, and passes the controllers on to it and into it.
    fn prepare(&self) -> io::Result<()> {
        let ours = self.root.join(OURS);
        if self.version == Version::Two {
            // It may be so already, and then need not be ours to change.
            let _ = fs::write(self.root.join("cgroup.subtree_control"), "+memory +pids");
        }
        fs::create_dir_all(&ours)?;
        if self.version == Version::Two {
            fs::write(ours.join("cgroup.subtree_control"), "+memory +pids")?;
        }
        Ok(())
    }

    /// Removes our folder if nobody needs it any more.
    fn leave(&self) {
        let _ = fs::remove_dir(self.root.join(OURS));
    }

    fn make(&self, name: &str, memory: u64, pids: u32) -> io::Result<PathBuf> {
        let group = self.group(name);
        // Between the two lines somebody who removes the last group takes our folder along.
        let mut made = self.prepare().and_then(|()| fs::create_dir(&group));
        for _ in 0..3 {
            if !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                break;
            }
            made = self.prepare().and_then(|()| fs::create_dir(&group));
        }
        made?;
        let set = |file: &str, value: u64| fs::write(group.join(file), value.to_string());
        if self.memory {
            match self.version {
                Version::One => {
                    set("memory.limit_in_bytes", memory)?;
                    // With swap: as much as without, so none. Kernels without swap accounting don't have it.
                    let _ = set("memory.memsw.limit_in_bytes", memory);
                }
                Version::Two => {
                    set("memory.max", memory)?;
                    let _ = set("memory.swap.max", 0);
                }
            }
        }
        if self.pids {
            set("pids.max", u64::from(pids))?;
        }
        Ok(group)
    }
}

/// The hierarchies that have a controller of ours, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn hierarchies(mounts: &str, controllers: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let Some(root) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next(), filesystem.nth(1).unwrap_or_default());
        let (version, controllers) = match kind {
            Some("cgroup") => (Version::One, options.to_owned()),
            Some("cgroup2") => (Version::Two, controllers(&root)),
            _ => continue,
        };
        let has = |name: &str| controllers.split([',', ' ', '\n']).any(|controller| controller == name);
        let (memory, pids) = (has("memory"), has("pids"));
        let new = |found: &Hierarchy| !(found.memory && memory || found.pids && pids);
        if (memory || pids) && found.iter().all(new) {
            found.push(Hierarchy { root, version, memory, pids });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arrangement_of_hierarchies_is_understood() {
        let hybrid = "\
            30 20 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 30 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
            33 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let found = hierarchies(hybrid, |_| String::new());
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|found| found.version == Version::One));
        assert!(found[0].memory && !found[0].pids && found[1].pids, "{found:?}");

        let unified = "31 30 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = hierarchies(unified, |_| "cpuset cpu io memory pids\n".to_owned());
        let expected =
            Hierarchy { root: "/sys/fs/cgroup".into(), version: Version::Two, memory: true, pids: true };
        assert_eq!(found, [expected]);

        assert_eq!(hierarchies("1 0 0:1 / / rw - ext4 /dev/vda rw\n", |_| String::new()), []);
    }
}
