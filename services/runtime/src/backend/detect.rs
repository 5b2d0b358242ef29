//! Which container runtime: by choice, or by looking.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use contract::{Code, error::Invalid};
use tokio_util::task::TaskTracker;

use super::{ContainerRuntime, Error, docker, process};

/// How long a daemon may take to answer when nobody asked for it. One that hangs must not hold up the start.
const WITHIN: Duration = Duration::from_secs(1);

/// Which backend is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Docker if a daemon answers, child processes otherwise.
    #[default]
    Auto,
    /// Docker, also while its daemon does not answer: it may come up later.
    Docker,
    /// Child processes.
    Process,
}

impl FromStr for Choice {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "auto" => Ok(Self::Auto),
            "docker" => Ok(Self::Docker),
            "process" => Ok(Self::Process),
            _ => Err(Invalid::new(Code::CLI_USAGE, text, "a backend is auto, docker or process")),
        }
    }
}

/// The backend, and why it is this one.
pub struct Chosen {
    /// The backend.
    pub backend: Arc<dyn ContainerRuntime>,
    /// A sentence for the log and for people.
    pub because: String,
}

/// Chooses and opens a backend. What the backends run in the background is tracked in `tasks`.
pub async fn choose(
    choice: Choice,
    docker: docker::Settings,
    process: process::Settings,
    tasks: TaskTracker,
) -> Result<Chosen, Error> {
    let socket = docker.socket.display().to_string();
    match choice {
        Choice::Docker => {
            let backend = docker::Docker::new(docker, tasks);
            Ok(Chosen { backend: Arc::new(backend), because: format!("docker, as configured, on {socket}") })
        }
        Choice::Process => {
            let backend = process::Process::open(process, tasks).await?;
            Ok(Chosen { backend: Arc::new(backend), because: "child processes, as configured".to_owned() })
        }
        Choice::Auto => {
            let daemon = docker::Docker::new(docker, tasks.clone());
            match daemon.answers(WITHIN).await {
                Ok(()) => {
                    let because = format!("docker, because a daemon answers on {socket}");
                    Ok(Chosen { backend: Arc::new(daemon), because })
                }
                Err(error) => {
                    let backend = process::Process::open(process, tasks).await?;
                    let because =
                        format!("child processes, because no docker daemon was found: {}", error.message);
                    Ok(Chosen { backend: Arc::new(backend), because })
                }
            }
        }
    }
}

/// The socket that `DOCKER_HOST` means, or the usual one. Only unix sockets: instances share directories with the
/// agent, so the daemon is on the same host.
pub fn docker_socket(docker_host: Option<&str>) -> Result<PathBuf, Invalid> {
    match docker_host {
        None | Some("") => Ok(PathBuf::from(docker::DEFAULT_SOCKET)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if Path::new(path).is_absolute() => Ok(PathBuf::from(path)),
            _ => Err(Invalid::new(
                Code::CLI_USAGE,
                host,
                "the docker daemon must be on this host: unix:///PATH",
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_this_host() {
        assert_eq!(docker_socket(None).unwrap(), Path::new("/var/run/docker.sock"));
        assert_eq!(docker_socket(Some("")).unwrap(), Path::new("/var/run/docker.sock"));
        assert_eq!(
            docker_socket(Some("unix:///run/user/1/docker.sock")).unwrap(),
            Path::new("/run/user/1/docker.sock")
        );
        for bad in ["tcp://10.0.0.1:2375", "unix://relative", "ssh://host"] {
            assert_eq!(docker_socket(Some(bad)).unwrap_err().code, Code::CLI_USAGE, "{bad}");
        }
        assert_eq!("docker".parse::<Choice>().unwrap(), Choice::Docker);
        assert!("podman".parse::<Choice>().is_err());
    }
}
