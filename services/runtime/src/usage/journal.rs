//! What has been counted, and what has not been told yet, on disk. Both change in one transaction, so a crash at any
//! moment neither loses nor doubles what an engine counted.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use contract::{
    Code,
    fleet::ServerId,
    usage::{Traffic, Usage},
    users::UserId,
};
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
};
use uuid::Uuid;

use crate::backend::Error;

/// `boot`: this journal's identity; `next`: the sequence of the next message.
const META: TableDefinition<&str, u128> = TableDefinition::new("meta");
/// By server: the run of its engine that has been counted last.
const RUNS: TableDefinition<u128, &str> = TableDefinition::new("runs");
/// By server and the engine's counter: whose it is (0: nobody's), and what of it has been counted, up and down.
const COUNTED: TableDefinition<(u128, &str), (u128, u64, u64)> = TableDefinition::new("counted");
/// By sequence: messages as they go over the bus.
const WAITING: TableDefinition<u64, &[u8]> = TableDefinition::new("waiting");

/// Pages that are kept in memory, in bytes.
const CACHE: usize = 1024 * 1024;

/// What of a counter has been counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    database: Database,
    /// Names the journal for all time.
    pub(super) boot: Uuid,
    /// It was made just now: engines that run already have counters of which nobody knows what was counted.
    pub(super) is_new: bool,
}

impl Journal {
    /// Opens it, or makes a new one; one that cannot be read is put aside. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let opened = Database::builder().set_cache_size(CACHE).create(path);
        let database = match opened {
            Err(
                error @ (DatabaseError::UpgradeRequired(_)
                | DatabaseError::RepairAborted
                | DatabaseError::Storage(StorageError::Corrupted(_))),
            ) => {
                let aside = put_aside(path)?;
                tracing::error!(
                    %error, aside = %aside.display(),
                    "what was counted of users' traffic cannot be read; counting begins anew"
                );
                Database::builder().set_cache_size(CACHE).create(path)
            }
            opened => opened,
        };
        let database = database.map_err(|error| failed(&error))?;
        let (boot, is_new) = {
            let writing = database.begin_write().map_err(|error| failed(&error))?;
            let known = {
                let mut meta = writing.open_table(META).map_err(|error| failed(&error))?;
                writing.open_table(RUNS).map_err(|error| failed(&error))?;
                writing.open_table(COUNTED).map_err(|error| failed(&error))?;
                writing.open_table(WAITING).map_err(|error| failed(&error))?;
                let known = meta.get("boot").map_err(|error| failed(&error))?.map(|boot| boot.value());
                if known.is_none() {
                    let boot = Uuid::now_v7().as_u128();
                    meta.insert("boot", boot).map_err(|error| failed(&error))?;
                    (boot, true)
                } else {
                    (known.unwrap_or_default(), false)
                }
            };
            writing.commit().map_err(|error| failed(&error))?;
            known
        };
        Ok(Self { database, boot: Uuid::from_u128(boot), is_new })
    }

    /// What has been counted, by server, and the sequence of the next message. Blocks.
    pub(super) fn load(&self) -> Result<(HashMap<ServerId, Run>, u64), Error> {
        let reading = self.database.begin_read().map_err(|error| failed(&error))?;
        let meta = reading.open_table(META).map_err(|error| failed(&error))?;
        let next = meta.get("next").map_err(|error| failed(&error))?.map_or(1, |next| next.value());
        let mut runs = HashMap::<ServerId, Run>::new();
        let table = reading.open_table(RUNS).map_err(|error| failed(&error))?;
        for row in table.iter().map_err(|error| failed(&error))? {
            let (server, run) = row.map_err(|error| failed(&error))?;
            let run = Run { id: run.value().to_owned(), counted: HashMap::new() };
            runs.insert(server_id(server.value()), run);
        }
        let table = reading.open_table(COUNTED).map_err(|error| failed(&error))?;
        for row in table.iter().map_err(|error| failed(&error))? {
            let (key, value) = row.map_err(|error| failed(&error))?;
            let ((server, entry), (user, up, down)) = (key.value(), value.value());
            let user = (user != 0).then(|| UserId(Uuid::from_u128(user)));
            if let Some(run) = runs.get_mut(&server_id(server)) {
                run.counted.insert(entry.to_owned(), Counted { user, traffic: Traffic { up, down } });
            }
        }
        Ok((runs, u64::try_from(next).unwrap_or(u64::MAX)))
    }

    /// Takes a step, whole or not at all; on disk when it returns. Blocks.
    pub(super) fn take(&self, step: &Step) -> Result<(), Error> {
        let writing = self.database.begin_write().map_err(|error| failed(&error))?;
        {
            let mut runs = writing.open_table(RUNS).map_err(|error| failed(&error))?;
            let mut counted = writing.open_table(COUNTED).map_err(|error| failed(&error))?;
            for (server, run) in &step.runs {
                let server = server.0.as_u128();
                let all = (server, "")..(server + 1, "");
                counted.retain_in(all, |_, _| false).map_err(|error| failed(&error))?;
                match run {
                    Some(run) => drop(runs.insert(server, run.as_str()).map_err(|error| failed(&error))?),
                    None => drop(runs.remove(server).map_err(|error| failed(&error))?),
                }
            }
            for ((server, entry), value) in &step.counted {
                let key = (server.0.as_u128(), entry.as_str());
                match value {
                    Some(Counted { user, traffic }) => {
                        let user = user.map_or(0, |user| user.0.as_u128());
                        let value = (user, traffic.up, traffic.down);
                        drop(counted.insert(key, value).map_err(|error| failed(&error))?);
                    }
                    None => drop(counted.remove(key).map_err(|error| failed(&error))?),
                }
            }
            let mut waiting = writing.open_table(WAITING).map_err(|error| failed(&error))?;
            waiting.retain_in(..=step.told, |_, _| false).map_err(|error| failed(&error))?;
            let mut meta = writing.open_table(META).map_err(|error| failed(&error))?;
            for (sequence, message) in &step.messages {
                let bytes = postcard::to_allocvec(message)
                    .map_err(|error| Error::new(Code::INTERNAL, error.to_string()))?;
                drop(waiting.insert(sequence, bytes.as_slice()).map_err(|error| failed(&error))?);
                drop(meta.insert("next", u128::from(sequence + 1)).map_err(|error| failed(&error))?);
            }
        }
        writing.commit().map_err(|error| failed(&error))
    }

    /// The first message behind this one that has not been told. Blocks.
    pub(super) fn next_waiting(&self, told: u64) -> Result<Option<(u64, Usage)>, Error> {
        let reading = self.database.begin_read().map_err(|error| failed(&error))?;
        let waiting = reading.open_table(WAITING).map_err(|error| failed(&error))?;
        let first = waiting.range(told + 1..).map_err(|error| failed(&error))?.next();
        read(first)
    }

    /// The last message that waits behind this one. Blocks.
    pub(super) fn last_waiting(&self, told: u64) -> Result<Option<(u64, Usage)>, Error> {
        let reading = self.database.begin_read().map_err(|error| failed(&error))?;
        let waiting = reading.open_table(WAITING).map_err(|error| failed(&error))?;
        let last = waiting.range(told + 1..).map_err(|error| failed(&error))?.next_back();
        read(last)
    }

    /// How many messages wait behind this one. Blocks.
    pub(super) fn count_waiting(&self, told: u64) -> Result<usize, Error> {
        let reading = self.database.begin_read().map_err(|error| failed(&error))?;
        let waiting = reading.open_table(WAITING).map_err(|error| failed(&error))?;
        Ok(waiting.range(told + 1..).map_err(|error| failed(&error))?.count())
    }
}

type Row<'r> =
    Option<Result<(redb::AccessGuard<'r, u64>, redb::AccessGuard<'r, &'static [u8]>), StorageError>>;

fn read(row: Row<'_>) -> Result<Option<(u64, Usage)>, Error> {
    let Some(row) = row else { return Ok(None) };
    let (sequence, bytes) = row.map_err(|error| failed(&error))?;
    let message = postcard::from_bytes(bytes.value())
        .map_err(|error| Error::new(Code::INTERNAL, format!("message {}: {error}", sequence.value())))?;
    Ok(Some((sequence.value(), message)))
}

fn server_id(id: u128) -> ServerId {
    ServerId(Uuid::from_u128(id))
}

fn put_aside(path: &Path) -> Result<PathBuf, Error> {
    let aside = path.with_extension("broken");
    match std::fs::rename(path, &aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("put aside", path, &error)),
        _ => Ok(aside),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    let full = std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
    let code = if full { Code::RUNTIME_DISK_FULL } else { Code::INTERNAL };
    Error::new(code, format!("the journal of users' traffic: {error}"))
}
