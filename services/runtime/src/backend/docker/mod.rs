//! The Docker daemon, by its socket.
//!
//! - [`client`]   the connection: negotiated once, each call with its deadline
//! - [`create`]   what a container is made like
//! - [`errors`]   what the daemon refuses, in the catalogue's words
//! - [`events`]   the daemon's event stream as notices, over its restarts
//! - [`health`]   what `vpn doctor` should know
//! - [`image`]    whether an image is there, and pulling it
//! - [`stray`]    processes that a killed daemon forgot
//!
//! A container that has to come up costs the daemon two calls, create and start; whatever else one could ask
//! is asked only once an answer says that something is in the way.

mod client;
mod create;
mod errors;
mod events;
mod health;
mod image;
mod stray;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary},
    query_parameters::{
        CreateContainerOptions, ListContainersOptions, LogsOptions, RemoveContainerOptions,
        StopContainerOptions,
    },
};
use contract::{Code, ImageRef, NodeName, ServerName, runtime::Check};
use futures::StreamExt as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;

use self::client::Client;
use super::{
    Container, ContainerRuntime, ContainerState, Error, Notice, RUN_DIR_INSIDE, Spec, UNKNOWN_EXIT,
    instance_name, outbox::Outbox, run_dir, words,
};

/// Where the daemon listens, unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// So many containers are looked at together: the daemon answers them from memory, in about a millisecond each.
const INSPECTED_AT_ONCE: usize = 8;
/// How often, and for how long between, a name is looked at that is taken by a container which is not there
/// (yet, or any more): it is being made for somebody who gave up, or being removed.
const NAME_TRIES: u32 = 20;
const NAME_WAIT: Duration = Duration::from_millis(100);
/// What is read of a log at most: 20 lines can be very long.
const LOG_BYTES: usize = 64 * 1024;

/// What the Docker backend must know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose containers.
    pub node: NodeName,
    /// The daemon's unix socket.
    pub socket: PathBuf,
    /// How long to wait for what.
    pub deadlines: Deadlines,
}

/// How long a call may take before it counts as failed. The daemon may well finish it later: every call can be
/// repeated.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Questions: milliseconds on a daemon that is well.
    pub look: Duration,
    /// Making, stopping (besides the grace) and removing: tens of milliseconds, seconds on a busy disk.
    pub change: Duration,
    /// Starting: a third of a second, most of it the network; many at once queue up in the daemon.
    pub start: Duration,
    /// Pulling an image: 30 MB over a slow line.
    pub pull: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(5),
            change: Duration::from_secs(30),
            start: Duration::from_secs(60),
            pull: Duration::from_secs(600),
        }
    }
}

/// Containers of a Docker daemon.
pub struct Docker {
    settings: Settings,
    client: Client,
    tasks: TaskTracker,
}

impl Docker {
    /// Connects at the first call, and again whenever needed: a daemon that is down now may be up by then.
    /// The tasks behind [`ContainerRuntime::notices`] are tracked in `tasks`.
    pub fn new(settings: Settings, tasks: TaskTracker) -> Self {
        let client = Client::new(settings.socket.clone(), settings.deadlines.look);
        Self { settings, client, tasks }
    }

    /// Whether the daemon answers, within the time given.
    pub(super) async fn answers(&self, within: Duration) -> Result<(), Error> {
        let docker = self.client.get();
        tokio::time::timeout(within, docker).await.map_err(|_| errors::timeout("version", within))?.map(drop)
    }

    fn container_name(&self, server: &ServerName) -> String {
        instance_name(&self.settings.node, server)
    }

    /// `None` where there is no such container.
    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        let found = self.client.call("inspect", self.settings.deadlines.look, async |docker| {
            docker.inspect_container(name, None).await
        });
        absent_is_none(found.await)
    }

    /// Kills what runs of a container that does not, as the daemon says. Says whether there was anything.
    async fn kill_strays(&self, name: &str) -> Result<bool, Error> {
        let Some(found) = self.inspect(name).await? else { return Ok(false) };
        match (found.id, found.state.and_then(|state| state.running)) {
            (Some(id), Some(false)) => stray::kill(&id).await,
            _ => Ok(false),
        }
    }

    /// What to make of the container that has the name: one of the same revision will do.
    fn compare(&self, spec: &Spec, found: &ContainerInspectResponse) -> Result<(), Error> {
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        let conflict = |why: String| Err(Error::new(Code::RUNTIME_INSTANCE_CONFLICT, why));
        let name = self.container_name(&spec.server);
        if label(create::NODE) != Some(self.settings.node.as_str()) {
            conflict(format!("a container that is not this node's has the name {name}"))
        } else if label(create::SERVER_ID) != Some(spec.server_id.0.to_string().as_str()) {
            conflict(format!("{name} was made for an earlier server of that name"))
        } else if label(create::REVISION) != Some(spec.revision.as_str()) {
            let revision = label(create::REVISION).unwrap_or("none");
            conflict(format!("{name} is of revision {revision}, not {}", spec.revision))
        } else {
            Ok(())
        }
    }

    /// `None` for one that went away since it was listed, or carries labels that nobody here wrote.
    async fn look_at(&self, summary: ContainerSummary) -> Result<Option<Container>, Error> {
        let found = self.inspect(summary.id.as_deref().unwrap_or_default()).await?;
        Ok(found.and_then(|found| container(&summary.labels.unwrap_or_default(), &found)))
    }
}

/// None for a stranger's.
fn container(labels: &HashMap<String, String>, found: &ContainerInspectResponse) -> Option<Container> {
    let Some((server, server_id, revision)) = create::identity(labels) else {
        tracing::warn!(container = found.id, "it has an instance's label or name, but is none: left alone");
        return None;
    };
    let state = found.state.as_ref()?;
    let code = || state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(UNKNOWN_EXIT);
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let state = match (state.status, pid) {
        (Some(ContainerStateStatusEnum::CREATED), _) => ContainerState::Created,
        (_, Some(pid)) => ContainerState::Running { pid },
        (_, None) => ContainerState::Exited { code: code() },
    };
    let traceparent = labels.get(create::TRACEPARENT).cloned();
    Some(Container { server, server_id, revision, traceparent, state })
}

#[async_trait]
impl ContainerRuntime for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn version(&self) -> Result<String, Error> {
        let look = self.settings.deadlines.look;
        let version = self.client.call("version", look, async |docker| docker.version().await).await?;
        let (engine, api) = (version.version.unwrap_or_default(), version.api_version.unwrap_or_default());
        Ok(format!("Docker {engine} (API {api})"))
    }

    fn inside(&self, _run_dir: &Path) -> PathBuf {
        PathBuf::from(RUN_DIR_INSIDE)
    }

    async fn list(&self) -> Result<Vec<Container>, Error> {
        let of_this_node = create::only_of(&self.settings.node);
        let options = ListContainersOptions { all: true, filters: Some(of_this_node), ..Default::default() };
        let summaries = self.client.call("list", self.settings.deadlines.look, async |docker| {
            docker.list_containers(Some(options)).await
        });
        let mut containers = futures::stream::iter(summaries.await?)
            .map(|summary| self.look_at(summary))
            .buffer_unordered(INSPECTED_AT_ONCE);
        let mut found = Vec::new();
        while let Some(container) = containers.next().await {
            found.extend(container?);
        }
        found.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(found)
    }

    async fn find(&self, server: &ServerName) -> Result<Option<Container>, Error> {
        let Some(found) = self.inspect(&self.container_name(server)).await? else { return Ok(None) };
        let labels = found.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        Ok(container(&labels, &found))
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Error> {
        image::ensure(&self.client, &self.settings.deadlines, image).await
    }

    async fn create(&self, spec: &Spec) -> Result<(), Error> {
        let owner = run_dir::runs_as(spec.rights)?;
        run_dir::hand_over(&spec.run_dir, owner)?;
        let name = self.container_name(&spec.server);
        let body = create::body(&self.settings.node, spec, owner);
        for _ in 0..NAME_TRIES {
            let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
            let body = body.clone();
            let made = self.client.call("create", self.settings.deadlines.change, async |docker| {
                docker.create_container(Some(options), body).await
            });
            match made.await {
                Ok(made) => {
                    for warning in made.warnings {
                        tracing::debug!(container = name, warning, "the daemon made it, with a remark");
                    }
                    return Ok(());
                }
                Err(error) if error.code == Code::RUNTIME_INSTANCE_CONFLICT => {
                    if let Some(found) = self.inspect(&name).await? {
                        return self.compare(spec, &found);
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(NAME_WAIT).await;
        }
        Err(Error::new(
            Code::RUNTIME_INSTANCE_CONFLICT,
            format!("the name {name} stays taken by a container that is being made or removed"),
        ))
    }

    async fn start(&self, spec: &Spec) -> Result<(), Error> {
        run_dir::hand_over(&spec.run_dir, run_dir::runs_as(spec.rights)?)?;
        let name = self.container_name(&spec.server);
        let deadline = Instant::now() + self.settings.deadlines.start;
        loop {
            // One that runs is answered with 304, which counts as done.
            let started = self.client.call("start", self.settings.deadlines.start, async |docker| {
                docker.start_container(&name, None).await
            });
            match started.await {
                Err(error) if error.code == Code::RUNTIME_BACKEND_REFUSED && Instant::now() < deadline => {
                    if !self.kill_strays(&name).await? {
                        return Err(error);
                    }
                    // The daemon hears of their end in a moment.
                    tokio::time::sleep(NAME_WAIT).await;
                }
                result => return result,
            }
        }
    }

    async fn stop(&self, server: &ServerName, grace: Duration) -> Result<(), Error> {
        // Whole seconds; zero would be no chance at all.
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let deadline = self.settings.deadlines.change.saturating_add(grace);
        let name = self.container_name(server);
        self.kill_strays(&name).await?;
        let options = StopContainerOptions { t: Some(seconds), signal: None };
        let stopped = self
            .client
            .call("stop", deadline, async |docker| docker.stop_container(&name, Some(options)).await)
            .await;
        absent_is_none(stopped).map(|_| ())
    }

    async fn remove(&self, server: &ServerName) -> Result<(), Error> {
        let deadline = Instant::now() + self.settings.deadlines.change;
        let name = self.container_name(server);
        self.kill_strays(&name).await?;
        // Its anonymous volumes go with it: an image may declare some, and nobody else could ever find them.
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        let removed = self
            .client
            .call("remove", self.settings.deadlines.change, async |docker| {
                docker.remove_container(&name, Some(options)).await
            })
            .await;
        match absent_is_none(removed) {
            Ok(_) => return Ok(()),
            // Somebody else's removal is under way.
            Err(error) if error.code == Code::RUNTIME_INSTANCE_CONFLICT => {}
            Err(error) => return Err(error),
        }
        while self.inspect(&name).await?.is_some() {
            if Instant::now() >= deadline {
                return Err(errors::timeout("remove", self.settings.deadlines.change));
            }
            tokio::time::sleep(NAME_WAIT).await;
        }
        Ok(())
    }

    async fn last_words(&self, server: &ServerName) -> Result<String, Error> {
        let name = self.container_name(server);
        let options =
            LogsOptions { stdout: true, stderr: true, tail: words::LINES.to_string(), ..Default::default() };
        let written = self.client.call("logs", self.settings.deadlines.look, async |docker| {
            let mut written = Vec::new();
            let mut parts = docker.logs(&name, Some(options));
            while let Some(part) = parts.next().await {
                written.extend_from_slice(&part?.into_bytes());
                let surplus = written.len().saturating_sub(LOG_BYTES);
                written.drain(..surplus);
            }
            Ok(written)
        });
        Ok(words::last(&written.await?))
    }

    fn notices(&self) -> mpsc::Receiver<Notice> {
        let (outbox, receiver) = Outbox::new();
        let since = events::now();
        self.tasks.spawn(events::follow(self.client.clone(), self.settings.node.clone(), outbox, since));
        receiver
    }

    async fn checks(&self) -> Vec<Check> {
        health::checks(self).await
    }
}

/// That something is not there is an answer, not a failure, where it need not be there.
fn absent_is_none<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code == Code::RUNTIME_INSTANCE_MISSING => Ok(None),
        Err(error) => Err(error),
    }
}
