//! What was counted goes over the bus, in order, each message until it is stored there.

use std::{sync::atomic::Ordering, time::Duration};

use bus::{Bus, insist};
use contract::usage::Usage;
use disk::blocking;
use tokio::time::sleep;

use super::Meter;

/// Between two tries to read the journal.
const RETRY_AFTER: Duration = Duration::from_millis(200);

impl Meter {
    /// Tells what waits and what comes, for ever.
    pub(crate) async fn tell(&self, bus: Bus) {
        // A node that has nothing to tell needs no stream.
        self.more.notified().await;
        insist("make the stream of usage", || bus.own_stream::<Usage>()).await;
        loop {
            let Some(journal) = self.state.lock().await.journal.clone() else {
                self.more.notified().await;
                continue;
            };
            let told = self.told.load(Ordering::Relaxed);
            match blocking(move || journal.next_waiting(told)).await {
                Ok(Some((sequence, message))) => {
                    // Sent again after a lost answer it has the same number, and is counted once.
                    insist("tell usage", || bus.publish(&message)).await;
                    self.told.store(sequence, Ordering::Relaxed);
                }
                Ok(None) => self.more.notified().await,
                Err(error) => {
                    tracing::error!(%error, "users' traffic cannot be told");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}
