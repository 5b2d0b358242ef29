//! What has to happen however long the bus is away.

use std::time::Duration;

use contract::Error;
use tokio::time::sleep;

/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Tries until it succeeds; `what` is in the log when it does not. Who drops the wait gives up.
pub async fn insist<T, W>(what: &str, mut attempt: impl FnMut() -> W) -> T
where
    W: Future<Output = Result<T, Error>>,
{
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::debug!(%error, "{what}: tried again soon"),
        }
        sleep(RETRY_AFTER).await;
    }
}
