//! What has been counted, and what has not been told yet, on disk. Both change in one transaction, so a crash at any
//! moment neither loses nor doubles what an engine counted.

use std::{collections::HashMap, path::Path};

use contract::{
    fleet::ServerId,
    usage::{Traffic, Usage},
    users::UserId,
};
use disk::{Disk, Error, Table};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The journal's identity.
const BOOT: Table<(), Uuid> = Table::new("boot");
/// The sequence of the next message.
const NEXT: Table<(), u64> = Table::new("next");
/// By server: the run of its engine that has been counted last.
const RUNS: Table<u128, String> = Table::new("runs");
/// By server and the engine's counter: what of it has been counted.
const COUNTED: Table<(u128, String), Counted> = Table::new("counted");
/// By sequence: messages as they go over the bus.
const WAITING: Table<u64, Usage> = Table::new("waiting");
const TABLES: [&str; 5] = ["boot", "next", "runs", "counted", "waiting"];

/// What of a counter has been counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Whose it is.
    pub(super) user: Option<UserId>,
    /// Up to here.
    pub(super) traffic: Traffic,
}

/// The counters of one run of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Which run: see [`super::run_of`].
    pub(super) id: String,
    /// By the engine's names for them.
    pub(super) counted: HashMap<String, Counted>,
}

/// What changes together.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Servers whose engine runs anew, or not any more: nothing of theirs has been counted.
    pub(super) runs: HashMap<ServerId, Option<String>>,
    /// Counters that stand elsewhere; none for those that are gone.
    pub(super) counted: HashMap<(ServerId, String), Option<Counted>>,
    /// New messages, or the same with more in them.
    pub(super) messages: Vec<(u64, Usage)>,
    /// Messages up to here have been told.
    pub(super) told: u64,
}

impl Step {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.counted.is_empty()
    }
}

/// The file.
pub(super) struct Journal {
    disk: Disk,
    /// Names the journal for all time.
    pub(super) boot: Uuid,
    /// It was made just now: engines that run already have counters of which nobody knows what was counted.
    pub(super) is_new: bool,
}

impl Journal {
    /// Opens it, or makes a new one. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let disk = Disk::open(path, &TABLES)?;
        let known = disk.read()?.get(BOOT, &())?;
        let boot = known.unwrap_or_else(Uuid::now_v7);
        if known.is_none() {
            let writing = disk.write()?;
            writing.put(BOOT, &(), &boot)?;
            writing.commit()?;
        }
        Ok(Self { disk, boot, is_new: known.is_none() })
    }

    /// What has been counted, by server, and the sequence of the next message. Blocks.
    pub(super) fn load(&self) -> Result<(HashMap<ServerId, Run>, u64), Error> {
        let reading = self.disk.read()?;
        let rows = reading.rows(RUNS, ..)?.into_iter();
        let mut runs: HashMap<u128, Run> =
            rows.map(|(server, id)| (server, Run { id, counted: HashMap::new() })).collect();
        for ((server, entry), counted) in reading.rows(COUNTED, ..)? {
            if let Some(run) = runs.get_mut(&server) {
                run.counted.insert(entry, counted);
            }
        }
        let runs = runs.into_iter().map(|(server, run)| (ServerId(Uuid::from_u128(server)), run));
        Ok((runs.collect(), reading.get(NEXT, &())?.unwrap_or(1)))
    }

    /// Takes a step, whole or not at all; on disk when it returns. Blocks.
    pub(super) fn take(&self, step: &Step) -> Result<(), Error> {
        let writing = self.disk.write()?;
        {
            let (mut runs, mut counted) = (writing.rows(RUNS)?, writing.rows(COUNTED)?);
            for (server, run) in &step.runs {
                let server = server.0.as_u128();
                counted.remove_all((server, String::new())..(server.saturating_add(1), String::new()))?;
                match run {
                    Some(run) => runs.put(&server, run)?,
                    None => runs.remove(&server)?,
                }
            }
            for ((server, entry), now) in &step.counted {
                let key = (server.0.as_u128(), entry.clone());
                match now {
                    Some(now) => counted.put(&key, now)?,
                    None => counted.remove(&key)?,
                }
            }
            let mut waiting = writing.rows(WAITING)?;
            waiting.remove_all(..=step.told)?;
            for (sequence, message) in &step.messages {
                waiting.put(sequence, message)?;
            }
        }
        if let Some((last, _)) = step.messages.last() {
            writing.put(NEXT, &(), &(last + 1))?;
        }
        writing.commit()
    }

    /// The first message behind this one that has not been told. Blocks.
    pub(super) fn next_waiting(&self, told: u64) -> Result<Option<(u64, Usage)>, Error> {
        self.disk.read()?.first(WAITING, told + 1..)
    }

    /// The last message that waits behind this one. Blocks.
    pub(super) fn last_waiting(&self, told: u64) -> Result<Option<(u64, Usage)>, Error> {
        self.disk.read()?.last(WAITING, told + 1..)
    }

    /// How many messages wait behind this one. Blocks.
    pub(super) fn count_waiting(&self, told: u64) -> Result<usize, Error> {
        self.disk.read()?.count(WAITING, told + 1..)
    }
}
