//! A container runtime in memory: deterministic, without a clock, and with faults as a test wants them.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use runtime::backend::{ContainerRuntime as _, fake::{Call, Fake, Fault}};
//! let fake = Fake::new();
//! fake.fault(Call::List, 2, Fault::Before(contract::Code::RUNTIME_BACKEND_TIMEOUT));
//! assert!(fake.list().await.is_ok());
//! assert!(fake.list().await.is_err());
//! # });
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use contract::{
    Code, ImageRef, Port, ServerName,
    runtime::{Check, ContainerEventKind},
    value::Transport,
};
use tokio::sync::{Semaphore, mpsc};

use super::{Container, ContainerRuntime, ContainerState, Error, Notice, Spec, outbox::Outbox};

/// The kinds of calls that faults are scripted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`ContainerRuntime::list`]
    List,
    /// [`ContainerRuntime::find`]
    Find,
    /// [`ContainerRuntime::ensure_image`]
    EnsureImage,
    /// [`ContainerRuntime::create`]
    Create,
    /// [`ContainerRuntime::start`]
    Start,
    /// [`ContainerRuntime::stop`]
    Stop,
    /// [`ContainerRuntime::remove`]
    Remove,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The call fails and has done nothing.
    Before(Code),
    /// The call does what it should, and fails then: its answer was lost.
    After(Code),
    /// The call hangs until [`Fake::release`], then does what it should.
    Hang,
}

/// A container runtime in memory. Clones share the containers.
#[derive(Clone, Default)]
pub struct Fake {
    world: Arc<Mutex<World>>,
    hanging: Arc<Hanging>,
}

struct Hanging(Semaphore);

impl Default for Hanging {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Default)]
struct World {
    instances: BTreeMap<ServerName, Instance>,
    /// Images that are neither here nor to be had.
    missing: BTreeSet<String>,
    /// Images to be had by `ensure_image`.
    remote: BTreeSet<String>,
    /// Ports that strangers hold.
    held: BTreeSet<(Port, Transport)>,
    faults: HashMap<(Call, usize), Fault>,
    counts: HashMap<Call, usize>,
    calls: Vec<(Call, Option<ServerName>)>,
    down: bool,
    mute: bool,
    last_pid: u32,
    outboxes: Vec<Outbox>,
}

struct Instance {
    container: Container,
    ports: Vec<(Port, Transport)>,
    words: String,
}

impl Fake {
    /// An empty one that is well.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scripts a fault for the nth call of a kind, counted from 1 since the fake was made.
    pub fn fault(&self, call: Call, nth: usize, fault: Fault) {
        self.world().faults.insert((call, nth), fault);
    }

    /// Lets one call go on that hangs, now or later.
    pub fn release(&self) {
        self.hanging.0.add_permits(1);
    }

    /// From now on every call fails as with a daemon that is down; its containers live on.
    pub fn go_down(&self) {
        self.world().down = true;
    }

    /// Ends [`Fake::go_down`]; whoever listens is told of a gap.
    pub fn come_up(&self) {
        let mut world = self.world();
        world.down = false;
        world.send(&Notice::Gap);
    }

    /// While mute, what happens is told to nobody, and nobody is told so.
    pub fn mute(&self, mute: bool) {
        self.world().mute = mute;
    }

    /// An instance ends by itself. Says whether it ran.
    pub fn die(&self, server: &ServerName, code: i32) -> bool {
        self.world().end(server, code)
    }

    /// Somebody removes a container behind the agent's back.
    pub fn vanish(&self, server: &ServerName) {
        self.world().take_away(server);
    }

    /// What an instance's last words will be.
    pub fn says(&self, server: &ServerName, words: &str) {
        if let Some(instance) = self.world().instances.get_mut(server) {
            words.clone_into(&mut instance.words);
        }
    }

    /// An image that is neither here nor to be had.
    pub fn without_image(&self, image: &ImageRef) {
        self.world().missing.insert(image.to_string());
    }

    /// An image that is not here, but to be had by [`ContainerRuntime::ensure_image`].
    pub fn with_remote_image(&self, image: &ImageRef) {
        self.world().remote.insert(image.to_string());
    }

    /// A stranger takes a port.
    pub fn hold_port(&self, port: Port, transport: Transport) {
        self.world().held.insert((port, transport));
    }

    /// And lets it go.
    pub fn release_port(&self, port: Port, transport: Transport) {
        self.world().held.remove(&(port, transport));
    }

    /// All calls so far, in order, those that failed too.
    pub fn calls(&self) -> Vec<(Call, Option<ServerName>)> {
        self.world().calls.clone()
    }

    /// What there is, as [`ContainerRuntime::list`] says it, without being a call.
    pub fn containers(&self) -> Vec<Container> {
        self.world().containers()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        call: Call,
        server: Option<&ServerName>,
        effect: impl FnOnce(&mut World) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let fault = self.world().begin(call, server);
        match fault {
            Some(Fault::Before(code)) => {
                return Err(Error::new(code, format!("scripted: {call:?} was not done")));
            }
            Some(Fault::Hang) => {
                if let Ok(permit) = self.hanging.0.acquire().await {
                    permit.forget();
                }
            }
            Some(Fault::After(_)) | None => {}
        }
        let mut world = self.world();
        if world.down {
            return Err(Error::new(Code::RUNTIME_BACKEND_UNREACHABLE, "scripted: the daemon is down"));
        }
        let done = effect(&mut world)?;
        match fault {
            Some(Fault::After(code)) => {
                Err(Error::new(code, format!("scripted: {call:?} was done, its answer lost")))
            }
            _ => Ok(done),
        }
    }
}

impl World {
    fn begin(&mut self, call: Call, server: Option<&ServerName>) -> Option<Fault> {
        self.calls.push((call, server.cloned()));
        let count = self.counts.entry(call).or_default();
        *count += 1;
        self.faults.remove(&(call, *count))
    }

    fn containers(&self) -> Vec<Container> {
        self.instances.values().map(|instance| instance.container.clone()).collect()
    }

    fn create(&mut self, spec: &Spec) -> Result<(), Error> {
        if let Some(found) = self.instances.get(&spec.server).map(|instance| &instance.container) {
            return if (found.server_id, &found.revision) == (spec.server_id, &spec.revision) {
                Ok(())
            } else {
                let message =
                    format!("{} is of revision {}, not {}", spec.server, found.revision, spec.revision);
                Err(Error::new(Code::RUNTIME_INSTANCE_CONFLICT, message))
            };
        }
        let image = spec.image.to_string();
        if self.missing.contains(&image) || self.remote.contains(&image) {
            return Err(Error::new(Code::RUNTIME_IMAGE_MISSING, format!("{image} is not here")));
        }
        let container = Container {
            server: spec.server.clone(),
            server_id: spec.server_id,
            revision: spec.revision.clone(),
            traceparent: spec.traceparent.clone(),
            state: ContainerState::Created,
        };
        let instance = Instance { container, ports: spec.ports.clone(), words: String::new() };
        self.instances.insert(spec.server.clone(), instance);
        self.tell(&spec.server, ContainerEventKind::Created);
        Ok(())
    }

    fn start(&mut self, server: &ServerName) -> Result<(), Error> {
        let Some(instance) = self.instances.get(server) else { return Err(absent(server)) };
        if matches!(instance.container.state, ContainerState::Running { .. }) {
            return Ok(());
        }
        let running =
            |instance: &&Instance| matches!(instance.container.state, ContainerState::Running { .. });
        let mut taken =
            self.instances.values().filter(running).flat_map(|instance| &instance.ports).chain(&self.held);
        if let Some((port, transport)) = taken.find(|port| instance.ports.contains(port)) {
            let message = format!("port {port}/{} is already in use", transport.as_str());
            return Err(Error::new(Code::RUNTIME_PORT_IN_USE, message));
        }
        self.last_pid += 1;
        self.set(server, ContainerState::Running { pid: self.last_pid });
        self.tell(server, ContainerEventKind::Started);
        Ok(())
    }

    fn end(&mut self, server: &ServerName, code: i32) -> bool {
        let found = self.instances.get(server).map(|instance| instance.container.state);
        let ran = matches!(found, Some(ContainerState::Running { .. }));
        if ran {
            self.set(server, ContainerState::Exited { code });
            self.tell(server, ContainerEventKind::Exited(code));
        }
        ran
    }

    fn take_away(&mut self, server: &ServerName) {
        self.end(server, 128 + 9);
        if let Some(instance) = self.instances.remove(server) {
            self.send(&notice(&instance.container, ContainerEventKind::Removed));
        }
    }

    fn set(&mut self, server: &ServerName, state: ContainerState) {
        if let Some(instance) = self.instances.get_mut(server) {
            instance.container.state = state;
        }
    }

    fn tell(&mut self, server: &ServerName, kind: ContainerEventKind) {
        if let Some(notice) = self.instances.get(server).map(|instance| notice(&instance.container, kind)) {
            self.send(&notice);
        }
    }

    fn send(&mut self, notice: &Notice) {
        if self.mute || self.down {
            return;
        }
        self.outboxes.retain(|outbox| !outbox.is_closed());
        for outbox in &mut self.outboxes {
            outbox.send(notice.clone());
        }
    }
}

fn notice(container: &Container, kind: ContainerEventKind) -> Notice {
    let (server, traceparent) = (container.server.clone(), container.traceparent.clone());
    Notice::Container { server, kind, traceparent }
}

fn absent(server: &ServerName) -> Error {
    Error::new(Code::RUNTIME_INSTANCE_MISSING, format!("there is no instance of {server}"))
}

#[async_trait]
impl ContainerRuntime for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn version(&self) -> Result<String, Error> {
        if self.world().down {
            return Err(Error::new(Code::RUNTIME_BACKEND_UNREACHABLE, "scripted: the daemon is down"));
        }
        Ok("fake".to_owned())
    }

    fn inside(&self, run_dir: &Path) -> PathBuf {
        run_dir.to_owned()
    }

    async fn list(&self) -> Result<Vec<Container>, Error> {
        self.call(Call::List, None, |world| Ok(world.containers())).await
    }

    async fn find(&self, server: &ServerName) -> Result<Option<Container>, Error> {
        let found =
            |world: &mut World| Ok(world.instances.get(server).map(|instance| instance.container.clone()));
        self.call(Call::Find, Some(server), found).await
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Error> {
        let image = image.to_string();
        self.call(Call::EnsureImage, None, |world| {
            world.remote.remove(&image);
            if world.missing.contains(&image) {
                return Err(Error::new(Code::RUNTIME_IMAGE_MISSING, format!("{image} is not to be had")));
            }
            Ok(())
        })
        .await
    }

    async fn create(&self, spec: &Spec) -> Result<(), Error> {
        self.call(Call::Create, Some(&spec.server), |world| world.create(spec)).await
    }

    async fn start(&self, spec: &Spec) -> Result<(), Error> {
        self.call(Call::Start, Some(&spec.server), |world| world.start(&spec.server)).await
    }

    async fn stop(&self, server: &ServerName, _grace: Duration) -> Result<(), Error> {
        self.call(Call::Stop, Some(server), |world| {
            world.end(server, 0);
            Ok(())
        })
        .await
    }

    async fn remove(&self, server: &ServerName) -> Result<(), Error> {
        self.call(Call::Remove, Some(server), |world| {
            world.take_away(server);
            Ok(())
        })
        .await
    }

    async fn last_words(&self, server: &ServerName) -> Result<String, Error> {
        self.world()
            .instances
            .get(server)
            .map(|instance| instance.words.clone())
            .ok_or_else(|| absent(server))
    }

    fn notices(&self) -> mpsc::Receiver<Notice> {
        let (outbox, receiver) = Outbox::new();
        self.world().outboxes.push(outbox);
        receiver
    }

    async fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}
