//! What is known of the containers, and the events that are not told yet, on disk. Both change in one transaction.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use contract::{ServerName, runtime::ContainerEvent};
use disk::{Disk, Error, Table};
use serde::{Deserialize, Serialize};

use super::known::{Is, Known};

/// By server: how its container is.
const KNOWN: Table<ServerName, Is> = Table::new("known");
/// By sequence: events that are not told yet.
const WAITING: Table<u64, Waiting> = Table::new("waiting");

/// An event on its way.
#[derive(Serialize, Deserialize)]
pub(super) struct Waiting {
    /// As it goes over the bus.
    pub(super) event: ContainerEvent,
    /// Of what made the container.
    pub(super) traceparent: Option<String>,
}

/// The file.
pub(super) struct Record {
    disk: Disk,
    known: Mutex<Known>,
}

impl Record {
    /// Opens it, or makes a new one. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let disk = Disk::open(path, &["known", "waiting"])?;
        let known = disk.read()?.rows(KNOWN, ..)?.into_iter().collect();
        Ok(Self { disk, known: Mutex::new(Known(known)) })
    }

    /// What is known.
    pub(super) fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is known, and these events wait behind those that do; events up to `told` are forgotten, and
    /// the oldest where more than `most` wait. Returns how many were. Blocks.
    pub(super) fn take(
        &self,
        known: Known,
        events: &[Waiting],
        told: &AtomicU64,
        most: u64,
    ) -> Result<usize, Error> {
        let before = self.known();
        let writing = self.disk.write()?;
        // While nothing else is written: what is forgotten has been counted in here by now.
        let told = told.load(Ordering::SeqCst);
        let given_up = {
            let mut table = writing.rows(KNOWN)?;
            for server in before.0.keys().filter(|server| !known.0.contains_key(*server)) {
                table.remove(server)?;
            }
            for (server, is) in known.0.iter().filter(|(server, is)| before.0.get(*server) != Some(is)) {
                table.put(server, is)?;
            }
            let mut waiting = writing.rows(WAITING)?;
            // Numbers go on where they were: `told` names the last of those that are forgotten.
            let mut next = waiting.last_key()?.map_or(told, |last| last.max(told)) + 1;
            waiting.remove_all(..=told)?;
            for event in events {
                waiting.put(&next, event)?;
                next += 1;
            }
            waiting.remove_all(..next.saturating_sub(most))?
        };
        writing.commit()?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(given_up)
    }

    /// Forgets events up to this one. Blocks.
    pub(super) fn forget(&self, told: u64) -> Result<(), Error> {
        let writing = self.disk.write()?;
        writing.rows(WAITING)?.remove_all(..=told)?;
        writing.commit()
    }

    /// The first event behind this one that has not been told. Blocks.
    pub(super) fn next_waiting(&self, told: u64) -> Result<Option<(u64, Waiting)>, Error> {
        self.disk.read()?.first(WAITING, told + 1..)
    }
}
