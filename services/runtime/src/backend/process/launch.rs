//! The programs that bind a child before it becomes the engine.
//!
//! Each does one thing and then *becomes* the next by `exec`, so that all of them are one process:
//!
//! 1. `setsid`   a session of its own: what ends the agent, or its terminal, does not end the child
//! 2. `sh`       writes who it is into `pid`, and steps into its cgroups
//! 3. `prlimit`  no core dumps: an engine's memory holds keys
//! 4. `setpriv`  another user, no capability but what the spec needs, no new privileges
//!
//! They are those of util-linux: what they do could be done between `fork` and `exec` here, but only in `unsafe` code.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use contract::Code;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use super::{Error, Spec, directory::Directory, identity::ProcessId, powers::Powers};
use crate::backend::{Rights, run_dir::Owner};

/// What `sh` does. Its arguments: the pid file, the number of cgroups, the cgroups, and the rest of the way.
const FIRST_STEPS: &str = r#"set -eu
umask 077
read -r stat </proc/self/stat
read -r boot </proc/sys/kernel/random/boot_id
echo "$boot $stat" >"$1" || exit 125
groups=$2
shift 2
while [ "$groups" -gt 0 ]; do
  echo 0 >"$1/cgroup.procs" || exit 125
  groups=$((groups - 1))
  shift
done
exec "$@""#;

/// The exit codes of programs that could not become the next one: ours above, and those of sh and util-linux.
const NEVER_BECAME_THE_NEXT: std::ops::RangeInclusive<i32> = 125..=127;

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Programs {
    setsid: PathBuf,
    sh: PathBuf,
    prlimit: PathBuf,
    setpriv: PathBuf,
    search: Vec<PathBuf>,
}

impl Programs {
    pub(super) fn find(search: &[PathBuf]) -> Result<Self, Error> {
        let find = |name: &str, package: &str| {
            look_for(Path::new(name), search).ok_or_else(|| {
                let message =
                    format!("{name} is not installed ({package}): child processes cannot be bound without");
                Error::new(Code::RUNTIME_PROGRAM_MISSING, message)
            })
        };
        Ok(Self {
            setsid: find("setsid", "util-linux")?,
            sh: find("sh", "dash, bash or busybox")?,
            prlimit: find("prlimit", "util-linux")?,
            setpriv: find("setpriv", "util-linux")?,
            search: search.to_owned(),
        })
    }

    /// Where an engine's program is.
    pub(super) fn engine(&self, program: &Path) -> Result<PathBuf, Error> {
        look_for(program, &self.search).ok_or_else(|| {
            let message = format!("{} is not installed on the node", program.display());
            Error::new(Code::RUNTIME_PROGRAM_MISSING, message)
        })
    }

    fn is_one_of_ours(&self, arguments: &[&[u8]]) -> bool {
        let is = |program: &Path| arguments.first() == Some(&program.as_os_str().as_encoded_bytes());
        is(&self.setsid)
            || is(&self.prlimit)
            || is(&self.setpriv)
            || (is(&self.sh) && arguments.contains(&FIRST_STEPS.as_bytes()))
    }
}

/// As `execvp` does it: a name without a slash is looked for.
fn look_for(program: &Path, search: &[PathBuf]) -> Option<PathBuf> {
    let runs = |path: &Path| {
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let found = if program.components().count() > 1 {
        runs(program).then(|| program.to_owned())
    } else {
        search.iter().map(|directory| directory.join(program)).find(|path| runs(path))
    };
    std::path::absolute(found?).ok()
}

/// A child about to be.
pub(super) struct Launch<'a> {
    pub(super) programs: &'a Programs,
    pub(super) powers: Powers,
    /// The engine's program, by its path.
    pub(super) engine: PathBuf,
    pub(super) owner: Owner,
    /// The cgroups to step into.
    pub(super) groups: Vec<PathBuf>,
}

impl Launch<'_> {
    /// Starts it on its way. From here on it needs nobody.
    pub(super) fn spawn(
        self,
        spec: &Spec,
        directory: &Directory,
        lock: File,
    ) -> Result<(Child, ProcessId), Error> {
        let log = directory.log();
        // Appending, so that the log can be emptied under it.
        let output = File::options().create(true).append(true).mode(0o600).open(&log);
        let output = output.map_err(|error| Error::file("open", &log, &error))?;
        let errors = output.try_clone().map_err(|error| Error::file("open", &log, &error))?;

        let mut command = Command::new(&self.programs.setsid);
        command.arg(&self.programs.sh).arg("-c").arg(FIRST_STEPS).arg("sh");
        command.arg(directory.pid_file()).arg(self.groups.len().to_string()).args(&self.groups);
        command.arg(&self.programs.prlimit).arg("--core=0");
        command.arg(&self.programs.setpriv).args(self.bonds(spec)).arg("--");
        command.arg(&self.engine).args(&spec.args);
        command.env_clear().envs(environment(spec, &self.programs.search));
        command.current_dir("/").stdin(lock).stdout(output).stderr(Stdio::from(errors));
        let child = command.spawn().map_err(|error| Error::file("start", &self.programs.setsid, &error))?;
        let process = child.id().and_then(ProcessId::of_child);
        let process = process.ok_or_else(|| Error::new(Code::INTERNAL, "a child without a process id"))?;
        Ok((child, process))
    }

    /// `setpriv`'s arguments.
    fn bonds(&self, spec: &Spec) -> Vec<String> {
        let low_ports = spec.ports.iter().any(|(port, _)| self.powers.is_low(*port));
        let bind = if low_ports { ",+net_bind_service" } else { "" };
        // Root gets its capabilities from the bounding set at each exec; others keep theirs by the ambient set.
        let (kept, ambient) = match spec.rights {
            Rights::Network => (format!(",+net_admin{bind}"), ""),
            Rights::None => (bind.to_owned(), bind),
        };
        let mut bonds = vec![
            "--no-new-privs".to_owned(),
            format!("--inh-caps=-all{kept}"),
            format!("--ambient-caps=-all{ambient}"),
        ];
        if self.powers.bound() {
            bonds.push(format!("--bounding-set=-all{kept}"));
        }
        if self.powers.switch_user() {
            let Owner { uid, gid } = self.owner;
            bonds.extend([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
        }
        bonds
    }
}

/// What the spec says and no more: the agent's own environment is none of an engine's business.
fn environment(spec: &Spec, search: &[PathBuf]) -> Vec<(OsString, OsString)> {
    let mut environment = Vec::new();
    if let Ok(path) = std::env::join_paths(search) {
        environment.push(("PATH".into(), path));
    }
    // Go's own limit makes it collect garbage rather than be killed at the cgroup's, and is all there is where
    // no cgroup can be made: RLIMIT_AS is of no use, as Go maps far more than it ever touches.
    environment.push(("GOMEMLIMIT".into(), (spec.memory / 10 * 9).to_string().into()));
    environment.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    environment
}

/// Waits until a child has become the engine.
///
/// One that ended on the way is an error, which says why; one that was the engine for too short a time to be seen
/// is none.
pub(super) async fn becomes_engine(
    process: ProcessId,
    programs: &Programs,
    ended: impl Future<Output = Option<i32>>,
    within: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    while process.is_alive() {
        // Anybody may read the command line, of processes of other users too. It is empty for the moment of an exec.
        let line = tokio::fs::read(format!("/proc/{}/cmdline", process.pid)).await.unwrap_or_default();
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if !line.is_empty() && !programs.is_one_of_ours(&arguments) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let message = format!("a child did not become the engine within {} s", within.as_secs());
            return Err(Error::new(Code::RUNTIME_BACKEND_TIMEOUT, message));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    match ended.await {
        Some(code) if NEVER_BECAME_THE_NEXT.contains(&code) => {
            Err(Error::new(Code::RUNTIME_ENGINE_FAILED, format!("its start ended with code {code}")))
        }
        _ => Ok(()),
    }
}
