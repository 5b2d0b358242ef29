//! Xray: VLESS+REALITY and Shadowsocks 2022.
//!
//! - [`config`]      the file it starts from
//! - [`check`]       what the program thinks of that file
//! - [`api`]         its control socket
//! - [`users`]       who may connect, while it runs
//! - [`nobody`]      entries in its list that are no user's
//! - [`counting`]    how much they send and receive
//! - [`sessions`]    who is connected, and how sessions of others end:
//!   - [`access_log`]  who connected from where
//!   - [`owners`]      what is known of that
//!   - [`follow`]      a task that looks after it
//! - [`files`]       in the run directory, with the engine as a neighbour
//!
//! 26.3.27 is what all of this was tried with. What it leaves open:
//!
//! - A UDP socket of a user's program reaches one destination at a time; the reason is in [`config`].
//! - With 10,000 users, Shadowsocks takes 15 ms to let one in whose key it does not know before, and as long to let
//!   one out; see [`users`].
//! - Who is removed sends no more datagrams over Shadowsocks, but one destination that sends without being asked is
//!   still heard for up to eight minutes.
//! - The log of who connected holds destinations, so no more than a mebibyte of it is kept.

mod access_log;
mod api;
mod check;
mod config;
mod counting;
mod files;
mod follow;
mod nobody;
mod owners;
mod sessions;
mod users;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use contract::{Code, ImageRef, Port, Protocol, UserName};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use self::{api::Api, follow::Gone, sessions::Sessions, users::Users};
use super::{Converged, Engine, EngineServer, EngineUser, Launch, Reading, UserSecret};
use crate::backend::{Error, Rights};

/// The image that `make images` builds.
pub const IMAGE: &str = "vpn-xray:26.3.27";
/// The file that the engine starts from, in the run directory.
const CONFIG: &str = "config.json";
/// Between two questions whether the engine answers yet; it does 100 ms after its start.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Where an Xray is, and how it is run.
#[derive(Debug, Clone)]
pub struct Place {
    /// The run directory.
    pub run_dir: PathBuf,
    /// The same as the instance sees it. Where that is the same path, the instance is a child process on this node,
    /// and its configuration is checked by the program before it starts.
    pub inside: PathBuf,
    /// The image where the server names none.
    pub image: ImageRef,
    /// The program, for child processes.
    pub program: PathBuf,
    /// Environment variables.
    pub env: Vec<(String, String)>,
}

/// The engine of one server's instance. Dropped, it stops looking after the sessions; the instance goes on.
pub struct Xray {
    place: Place,
    api: Api,
    sessions: Arc<Sessions>,
    gone: Arc<Gone>,
    users: Users,
    following: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Xray {
    /// For an instance that serves this protocol on this port, running or not.
    pub fn new(place: Place, protocol: Protocol, port: Port) -> Self {
        let api = Api::new(place.run_dir.join(config::API_SOCKET));
        let sessions = Arc::new(Sessions::new(place.run_dir.clone(), port.get()));
        let gone = Arc::<Gone>::default();
        let users = Users::new(protocol, api.clone(), Arc::clone(&sessions), Arc::clone(&gone));
        Self { place, api, sessions, gone, users, following: Mutex::default() }
    }

    /// Starts the task that follows the access log, once.
    fn follow(&self) {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        following.get_or_insert_with(|| {
            let following =
                follow::follow(Arc::clone(&self.sessions), Arc::clone(&self.gone), self.api.clone());
            AbortOnDropHandle::new(tokio::spawn(following))
        });
    }

    async fn write(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error> {
        let (server, users, inside) = (server.clone(), users.to_vec(), self.place.inside.clone());
        let path = self.place.run_dir.join(CONFIG);
        // With 10,000 users it takes 15 ms to make.
        blocking(move || files::replace(&path, &config::file(&server, &users, &inside)?)).await
    }
}

#[async_trait]
impl Engine for Xray {
    fn launch(&self) -> Launch {
        Launch {
            image: self.place.image.clone(),
            program: self.place.program.clone(),
            args: vec![
                "run".to_owned(),
                "-c".to_owned(),
                self.place.inside.join(CONFIG).display().to_string(),
            ],
            env: self.place.env.clone(),
            rights: Rights::None,
        }
    }

    async fn prepare(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error> {
        api::check_path(&self.place.inside.join(config::API_SOCKET))?;
        api::check_path(&self.place.run_dir.join(config::API_SOCKET))?;
        self.users.forget();
        let (run_dir, sessions) = (self.place.run_dir.clone(), Arc::clone(&self.sessions));
        blocking(move || {
            make_directory(&run_dir)
                // Xray does not start where a socket is left.
                .and_then(|()| files::remove(&run_dir.join(config::API_SOCKET)))
                .and_then(|()| sessions.forget())
                .map_err(|error| Error::file("clear", &run_dir, &error))
        })
        .await?;
        self.write(server, users).await?;
        if self.place.inside == self.place.run_dir {
            check::check(&self.place, &self.place.run_dir.join(CONFIG), &server.secret).await?;
        }
        Ok(())
    }

    async fn ready(&self, deadline: Instant) -> Result<(), Error> {
        let mut last = Error::new(Code::RUNTIME_ENGINE_FAILED, "Xray does not answer".to_owned());
        let asking = async {
            while let Err(error) = self.api.tags().await {
                last = error;
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::time::timeout_at(deadline, asking).await.map_err(|_| last)
    }

    async fn converge(&self, users: &[EngineUser], pid: u32) -> Result<Converged, Error> {
        self.sessions.are_of(pid);
        self.follow();
        self.users.converge(users).await
    }

    async fn add(&self, users: &[EngineUser], pid: u32) -> Result<(), Error> {
        self.sessions.are_of(pid);
        self.gone.remove(users.iter().map(|user| user.name.as_str()));
        self.users.add(users).await
    }

    async fn remove(&self, users: &[UserName], pid: u32) -> Result<(), Error> {
        self.sessions.are_of(pid);
        self.users.remove(users).await
    }

    async fn expect(&self, coming: &[UserSecret], pid: u32) -> Result<(), Error> {
        self.sessions.are_of(pid);
        let keys = coming.iter().filter_map(UserSecret::shadowsocks);
        self.users.expect(keys.map(|key| Zeroizing::new(*key)).collect()).await
    }

    async fn learn(&self) -> Result<bool, Error> {
        self.users.learn().await
    }

    async fn usage(&self) -> Result<Vec<Reading>, Error> {
        self.users.usage().await
    }

    async fn save(&self, server: &EngineServer, users: &[EngineUser]) -> Result<(), Error> {
        self.write(server, users).await
    }
}

/// As the backends make it: whoever the engine runs as must get through what is above, and needs to see nothing
/// of that.
fn make_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// A user came with another protocol's secret, which our own code would have to mix up.
fn wrong_secret(user: &UserName) -> Error {
    Error::new(Code::INTERNAL, format!("the secret of {user} is one of another protocol"))
}

/// Work that waits for files or the kernel, on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(Code::INTERNAL, format!("it was not done: {error}"))))
}
