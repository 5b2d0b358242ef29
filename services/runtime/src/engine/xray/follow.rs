//! Follows an engine's access log as long as the instance is ours.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{api::Api, blocking, sessions::Sessions};
use crate::backend::Error;

/// Between two looks into the log.
const USUALLY: Duration = Duration::from_millis(200);
/// The same just after somebody was removed, when late lines are to be expected …
const AFTER_REMOVAL: Duration = Duration::from_millis(20);
/// … which is for so long.
const LATE: Duration = Duration::from_secs(1);
/// A session that was ended is counted out by Xray within milliseconds. Who still counts as connected after so
/// long has a connection that the log does not tell of.
const COUNTED_OUT: Duration = Duration::from_millis(400);

/// Users who were removed and are still to be looked after.
#[derive(Debug, Default)]
pub(super) struct Gone {
    users: Mutex<HashMap<String, Instant>>,
    removed: Notify,
}

impl Gone {
    pub(super) fn insert<'a>(&self, users: impl Iterator<Item = &'a str>) {
        let now = Instant::now();
        self.lock().extend(users.map(|user| (user.to_owned(), now)));
        self.removed.notify_one();
    }

    /// They are back.
    pub(super) fn remove<'a>(&self, users: impl Iterator<Item = &'a str>) {
        let mut gone = self.lock();
        if !gone.is_empty() {
            users.for_each(|user| {
                gone.remove(user);
            });
        }
    }

    fn due(&self) -> Vec<String> {
        let mut due = Vec::new();
        self.lock().retain(|user, since| {
            let wait = since.elapsed() < COUNTED_OUT;
            if !wait {
                due.push(user.clone());
            }
            wait
        });
        due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends what should not be, and keeps the log short, for ever.
pub(super) async fn follow(sessions: Arc<Sessions>, gone: Arc<Gone>, api: Api) {
    let mut hurry_until = Instant::now();
    let mut complained = String::new();
    loop {
        let pause = if Instant::now() < hurry_until { AFTER_REMOVAL } else { USUALLY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = gone.removed.notified() => hurry_until = Instant::now() + LATE,
        }
        let looked = match look(&sessions).await {
            Ok(()) => look_after(gone.due(), &sessions, &api).await,
            failed => failed,
        };
        // What does not change is said once.
        let complaint = looked.err().map(|error| error.to_string()).unwrap_or_default();
        if complaint != complained {
            if !complaint.is_empty() {
                tracing::warn!(error = %complaint, "open sessions may outlive their users");
            }
            complained = complaint;
        }
    }
}

async fn look(sessions: &Arc<Sessions>) -> Result<(), Error> {
    let sessions = Arc::clone(sessions);
    blocking(move || {
        if sessions.read_on()? {
            sessions.end(&HashSet::new())?;
        }
        sessions.tidy()
    })
    .await
}

async fn look_after(gone: Vec<String>, sessions: &Arc<Sessions>, api: &Api) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let online: HashSet<String> = api.all_online().await?.into_iter().collect();
    for user in gone.into_iter().filter(|user| online.contains(user)) {
        let from = api.online(&user).await?;
        let sessions = Arc::clone(sessions);
        let ended = blocking(move || sessions.end_unknown(&from)).await?;
        if ended > 0 {
            tracing::info!(user, ended, "ended sessions that the access log does not tell of");
        }
    }
    Ok(())
}
