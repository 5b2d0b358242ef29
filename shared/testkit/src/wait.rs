//! Wait for a condition, never for a while.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What one look at a condition can give: `bool`, `Option` or `Result`.
pub trait Look {
    /// What is known once the condition holds.
    type Found;
    /// What was found, or what is still missing.
    fn look(self) -> Result<Self::Found, String>;
}

impl Look for bool {
    type Found = ();
    fn look(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("not so".to_owned()) }
    }
}

impl<T> Look for Option<T> {
    type Found = T;
    fn look(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;
    fn look(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Looks again and again until the condition holds; returns what was found.
///
/// ```
/// # use std::time::Duration;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let length = testkit::wait::eventually("the file is there", Duration::from_secs(1), async || {
///     tokio::fs::metadata("Cargo.toml").await.map(|file| file.len())
/// })
/// .await;
/// assert!(length > 0);
/// # });
/// ```
///
/// # Panics
/// Where it does not hold by the deadline, also where a look itself hangs; with what was missing last.
pub async fn eventually<L: Look>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> L) -> L::Found {
    /// Short at first, as most conditions hold within milliseconds; then no load on two cores.
    const PAUSES: [u64; 6] = [1, 2, 5, 10, 20, 50];
    let missing = Arc::new(Mutex::new("the first look did not end".to_owned()));
    let looks = async {
        for round in 0_usize.. {
            match look().await.look() {
                Ok(found) => return found,
                Err(reason) => *missing.lock().unwrap() = reason,
            }
            let pause = PAUSES[round.min(PAUSES.len() - 1)];
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        unreachable!()
    };
    match tokio::time::timeout(within, looks).await {
        Ok(found) => found,
        Err(_) => panic!("not within {within:?}: {what}; last: {}", missing.lock().unwrap()),
    }
}
