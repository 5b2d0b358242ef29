//! The connection: negotiated once, each call with its deadline.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Error, errors};

/// bollard's own limit on the wait for an answer's head. Ours are shorter for every call, and an event stream may
/// say nothing for as long as it likes.
const NO_LIMIT_SECONDS: u64 = 365 * 24 * 3600;

/// A daemon's socket, and what was agreed with the daemon.
#[derive(Clone)]
pub(super) struct Client {
    socket: PathBuf,
    look: Duration,
    negotiated: Arc<Mutex<Option<bollard::Docker>>>,
}

impl Client {
    pub(super) fn new(socket: PathBuf, look: Duration) -> Self {
        Self { socket, look, negotiated: Arc::default() }
    }

    /// Makes a call, at most for as long as it may take.
    pub(super) async fn call<T>(
        &self,
        call: &'static str,
        deadline: Duration,
        make: impl AsyncFnOnce(&bollard::Docker) -> Result<T, bollard::errors::Error>,
    ) -> Result<T, Error> {
        let docker = self.get().await?;
        match tokio::time::timeout(deadline, make(&docker)).await {
            Ok(result) => result.map_err(|error| errors::translate(call, &self.socket, error)),
            Err(_) => Err(errors::timeout(call, deadline)),
        }
    }

    /// The client, speaking the daemon's version: the newest that both know.
    pub(super) async fn get(&self) -> Result<bollard::Docker, Error> {
        if let Some(docker) = self.negotiated.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(docker);
        }
        let translate = |error| errors::translate("version", &self.socket, error);
        let path = self.socket.to_string_lossy();
        let docker =
            bollard::Docker::connect_with_unix(&path, NO_LIMIT_SECONDS, bollard::API_DEFAULT_VERSION)
                .map_err(translate)?;
        let docker = tokio::time::timeout(self.look, docker.negotiate_version())
            .await
            .map_err(|_| errors::timeout("version", self.look))?
            .map_err(translate)?;
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = Some(docker.clone());
        Ok(docker)
    }

    /// Forgets what was agreed: the daemon went away, and what comes back may be another version of it.
    pub(super) fn forget(&self) {
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
