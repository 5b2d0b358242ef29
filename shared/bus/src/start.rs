//! Starting while the bus is not what it will be: it comes up, elects a leader, has a full disk.

use std::{pin::pin, time::Duration};

use contract::{Code, Error};
use tokio::time::{sleep, timeout};

use crate::Shutdown;

/// Between two tries: recovery is to take less than a second.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// At shutdown, what serves ends by itself in less; what waits for the bus would wait on.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Tries `start` until it succeeds or fails for good; none where shutdown begins before. What a try that failed has
/// spawned on the part of the shutdown that it gets is asked to end.
pub async fn start<T, W>(
    name: &str,
    shutdown: &Shutdown,
    mut start: impl FnMut(Shutdown) -> W,
) -> Result<Option<T>, Error>
where
    W: Future<Output = Result<T, Error>>,
{
    let mut told = None;
    loop {
        let part = shutdown.part();
        let mut trying = pin!(start(part.clone()));
        let tried = tokio::select! {
            tried = &mut trying => tried,
            () = shutdown.begun() => match timeout(END_WITHIN, trying).await {
                Ok(tried) => tried,
                Err(_) => return Ok(None),
            },
        };
        let error = match tried {
            Ok(started) => return Ok(Some(started)),
            Err(error) if passes(&error) => error,
            Err(error) => return Err(error),
        };
        part.begin();
        if told.as_ref() != Some(&error.code) {
            tracing::warn!(service = name, %error, "waiting for the bus");
            told = Some(error.code);
        }
        tokio::select! {
            () = sleep(RETRY_AFTER) => {}
            () = shutdown.begun() => return Ok(None),
        }
    }
}

/// Whether a start that failed so can succeed later with nothing changed here. A server that is too old, has no
/// JetStream or no room for a stream is for a person.
fn passes(error: &Error) -> bool {
    [Code::BUS_UNREACHABLE, Code::BUS_TIMEOUT, Code::BUS_NO_RESPONDERS, Code::BUS_STORE_FAILED]
        .contains(&error.code)
}
