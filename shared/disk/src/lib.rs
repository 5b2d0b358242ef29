//! Small databases of a service's own, for what the bus is not the place for: redb files whose transactions survive a
//! kill at any moment.
//!
//! - [`Disk`]  the file, its transactions
//! - [`Table`] a table of it, with the types of its keys and values
//! - [`Key`]   keys as bytes, in their order
//!
//! All tables have the same types in redb's eyes, bytes to bytes: its code stands in the program once for each pair of
//! types, 60 kB a pair, and a service is mostly code.

mod key;

use std::{
    io::ErrorKind,
    marker::PhantomData,
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use key::Key;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

/// Pages that are kept in memory, in bytes.
const CACHE: usize = 1024 * 1024;

/// What kept the disk from doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no room.
    #[error("{0}: the disk is full")]
    Full(String),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// A table: its name, and the types of its keys and values. Values are postcard.
#[derive(Debug)]
pub struct Table<K: ?Sized, V> {
    name: &'static str,
    kind: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized, V> Copy for Table<K, V> {}

impl<K: ?Sized, V> Table<K, V> {
    /// The table of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, kind: PhantomData }
    }

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name)
    }
}

/// A file of tables. One process has it open at a time.
///
/// After a failure, such as a full disk, redb answers nothing more from what it has open: the file is opened anew at the
/// next use then.
#[derive(Debug)]
pub struct Disk {
    database: Mutex<Option<Arc<Database>>>,
    path: PathBuf,
}

impl Disk {
    /// Opens the file, or makes a new one with these tables; one that cannot be read is put aside, and the log says so.
    /// Blocks.
    pub fn open(path: &Path, tables: &[&'static str]) -> Result<Self, Error> {
        let disk = Self { database: Mutex::default(), path: path.to_owned() };
        let opened = match disk.create() {
            Err(error) if is_unreadable(&error) => {
                let aside = path.with_extension("broken");
                std::fs::rename(path, &aside).map_err(|error| failed(path, &error))?;
                tracing::error!(%error, aside = %aside.display(), "a file cannot be read; it begins anew");
                disk.create()
            }
            opened => opened,
        };
        *disk.lock() = Some(Arc::new(opened.map_err(|error| failed(path, &error))?));
        let writing = disk.write()?;
        for name in tables {
            writing.table(Table::<[u8], ()>::new(name))?;
        }
        writing.commit()?;
        Ok(disk)
    }

    /// What is there now, for as long as it is read. Blocks, as all of this does.
    pub fn read(&self) -> Result<Reading<'_>, Error> {
        let transaction = self.database()?.begin_read().map_err(|error| self.failed(&error))?;
        Ok(Reading { transaction, disk: self })
    }

    /// A change: all of it at [`Writing::commit`], or nothing. One at a time; others wait.
    pub fn write(&self) -> Result<Writing<'_>, Error> {
        let transaction = self.database()?.begin_write().map_err(|error| self.failed(&error))?;
        Ok(Writing { transaction, disk: self })
    }

    fn database(&self) -> Result<Arc<Database>, Error> {
        let mut database = self.lock();
        if let Some(database) = database.as_ref() {
            return Ok(database.clone());
        }
        let opened = Arc::new(self.create().map_err(|error| failed(&self.path, &error))?);
        *database = Some(opened.clone());
        Ok(opened)
    }

    fn create(&self) -> Result<Database, DatabaseError> {
        Database::builder().set_cache_size(CACHE).create(&self.path)
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        *self.lock() = None;
        failed(&self.path, error)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file is none of ours, or none any more: also one that was being made when the disk was full.
fn is_unreadable(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted
        | DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// What is there.
pub struct Reading<'d> {
    transaction: redb::ReadTransaction,
    disk: &'d Disk,
}

impl Reading<'_> {
    /// What stands under a key.
    pub fn get<K: Key + ?Sized, V: DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, Error> {
        let table = self.table(table)?;
        let found = table.get(key.bytes().as_slice()).map_err(|error| self.disk.failed(&error))?;
        found.map(|value| self.decode(value.value())).transpose()
    }

    /// Rows in the order of their keys. Those that cannot be read are left out, and the log says so.
    pub fn rows<K, V>(&self, table: Table<K, V>, keys: impl RangeBounds<K>) -> Result<Vec<(K, V)>, Error>
    where
        K: Key + Sized,
        V: DeserializeOwned,
    {
        let mut rows = Vec::new();
        for row in self.range(table, &keys)? {
            let (key, value) = row.map_err(|error| self.disk.failed(&error))?;
            match (K::read(key.value()), postcard::from_bytes(value.value())) {
                (Some(key), Ok(value)) => rows.push((key, value)),
                _ => {
                    tracing::error!(path = %self.disk.path.display(), table = table.name, "a row cannot be read")
                }
            }
        }
        Ok(rows)
    }

    /// The first row of these.
    pub fn first<K, V>(&self, table: Table<K, V>, keys: impl RangeBounds<K>) -> Result<Option<(K, V)>, Error>
    where
        K: Key + Sized,
        V: DeserializeOwned,
    {
        let first = self.range(table, &keys)?.next();
        self.row(first)
    }

    /// The last row of these.
    pub fn last<K, V>(&self, table: Table<K, V>, keys: impl RangeBounds<K>) -> Result<Option<(K, V)>, Error>
    where
        K: Key + Sized,
        V: DeserializeOwned,
    {
        let last = self.range(table, &keys)?.next_back();
        self.row(last)
    }

    /// How many rows there are of these.
    pub fn count<K: Key + Sized, V>(
        &self,
        table: Table<K, V>,
        keys: impl RangeBounds<K>,
    ) -> Result<usize, Error> {
        Ok(self.range(table, &keys)?.count())
    }

    fn row<K: Key + Sized, V: DeserializeOwned>(&self, row: Option<Row>) -> Result<Option<(K, V)>, Error> {
        let Some(row) = row else { return Ok(None) };
        let (key, value) = row.map_err(|error| self.disk.failed(&error))?;
        let unreadable = || Error::Failed(format!("{}: a key cannot be read", self.disk.path.display()));
        Ok(Some((K::read(key.value()).ok_or_else(unreadable)?, self.decode(value.value())?)))
    }

    fn range<K: Key + Sized, V>(
        &self,
        table: Table<K, V>,
        keys: &impl RangeBounds<K>,
    ) -> Result<redb::Range<'static, &'static [u8], &'static [u8]>, Error> {
        let (from, to) = (keys.start_bound().map(Key::bytes), keys.end_bound().map(Key::bytes));
        let bounds = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        self.table(table)?.range::<&[u8]>(bounds).map_err(|error| self.disk.failed(&error))
    }

    fn table<K: ?Sized, V>(
        &self,
        table: Table<K, V>,
    ) -> Result<redb::ReadOnlyTable<&'static [u8], &'static [u8]>, Error> {
        self.transaction.open_table(table.definition()).map_err(|error| self.disk.failed(&error))
    }

    fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, Error> {
        postcard::from_bytes(bytes)
            .map_err(|error| Error::Failed(format!("{}: {error}", self.disk.path.display())))
    }
}

type Row = Result<
    (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>),
    StorageError,
>;

/// A change that is being made.
pub struct Writing<'d> {
    transaction: redb::WriteTransaction,
    disk: &'d Disk,
}

impl Writing<'_> {
    /// A row, in the place of what stands there.
    pub fn put<K: Key + ?Sized, V: Serialize>(
        &self,
        table: Table<K, V>,
        key: &K,
        value: &V,
    ) -> Result<(), Error> {
        self.rows(table)?.put(key, value)
    }

    /// A table, for several rows.
    pub fn rows<K: ?Sized, V>(&self, table: Table<K, V>) -> Result<Rows<'_, K, V>, Error> {
        Ok(Rows { table: self.table(table)?, disk: self.disk, kind: PhantomData })
    }

    /// Makes the change, on disk when it returns.
    pub fn commit(self) -> Result<(), Error> {
        let disk = self.disk;
        self.transaction.commit().map_err(|error| disk.failed(&error))
    }

    fn table<K: ?Sized, V>(
        &self,
        table: Table<K, V>,
    ) -> Result<redb::Table<'_, &'static [u8], &'static [u8]>, Error> {
        self.transaction.open_table(table.definition()).map_err(|error| self.disk.failed(&error))
    }
}

/// A table that is being changed.
pub struct Rows<'t, K: ?Sized, V> {
    table: redb::Table<'t, &'static [u8], &'static [u8]>,
    disk: &'t Disk,
    kind: PhantomData<fn(&K) -> V>,
}

impl<K: Key + ?Sized, V> Rows<'_, K, V> {
    /// A row, in the place of what stands there.
    pub fn put(&mut self, key: &K, value: &V) -> Result<(), Error>
    where
        V: Serialize,
    {
        let bytes = postcard::to_allocvec(value).map_err(|error| Error::Failed(error.to_string()))?;
        let put = self.table.insert(key.bytes().as_slice(), bytes.as_slice());
        put.map(drop).map_err(|error| self.disk.failed(&error))
    }

    /// Removes a row, if it is there.
    pub fn remove(&mut self, key: &K) -> Result<(), Error> {
        self.table.remove(key.bytes().as_slice()).map(drop).map_err(|error| self.disk.failed(&error))
    }

    /// Removes rows; returns how many.
    pub fn remove_all(&mut self, keys: impl RangeBounds<K>) -> Result<usize, Error>
    where
        K: Sized,
    {
        let (from, to): (Bound<Vec<u8>>, _) =
            (keys.start_bound().map(Key::bytes), keys.end_bound().map(Key::bytes));
        let bounds = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let mut removed = 0;
        let all = self.table.retain_in::<&[u8], _>(bounds, |_, _| {
            removed += 1;
            false
        });
        all.map_err(|error| self.disk.failed(&error))?;
        Ok(removed)
    }

    /// The last key.
    pub fn last_key(&self) -> Result<Option<K>, Error>
    where
        K: Sized,
    {
        let last = self.table.last().map_err(|error| self.disk.failed(&error))?;
        Ok(last.and_then(|(key, _)| K::read(key.value())))
    }
}

/// Work that waits for the disk, on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Failed(format!("it was not done: {error}"))))
}

fn failed(path: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    let full = std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
    let text = format!("{}: {error}", path.display());
    if full { Error::Full(text) } else { Error::Failed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Table<(u128, String), u64> = Table::new("counts");
    const NUMBERS: Table<u64, String> = Table::new("numbers");

    #[test]
    fn what_was_committed_is_there_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.redb");
        let disk = Disk::open(&path, &["counts", "numbers"]).unwrap();
        let writing = disk.write().unwrap();
        for number in 1..=20_u64 {
            writing.put(NUMBERS, &number, &number.to_string()).unwrap();
            writing.put(COUNTS, &(u128::from(number % 2), number.to_string()), &number).unwrap();
        }
        writing.commit().unwrap();
        let given_up = disk.write().unwrap();
        given_up.put(NUMBERS, &300, &"no".to_owned()).unwrap();
        drop(given_up);
        let writing = disk.write().unwrap();
        assert_eq!(writing.rows(NUMBERS).unwrap().remove_all(..=5).unwrap(), 5);
        let odd = (1, String::new())..(2, String::new());
        assert_eq!(writing.rows(COUNTS).unwrap().remove_all(odd).unwrap(), 10);
        assert_eq!(writing.rows(NUMBERS).unwrap().last_key().unwrap(), Some(20));
        writing.commit().unwrap();
        drop(disk);

        let disk = Disk::open(&path, &["counts", "numbers"]).unwrap();
        let reading = disk.read().unwrap();
        assert_eq!(reading.first(NUMBERS, ..).unwrap(), Some((6, "6".to_owned())));
        assert_eq!(reading.last(NUMBERS, ..10).unwrap(), Some((9, "9".to_owned())));
        assert_eq!(reading.count(NUMBERS, 7..).unwrap(), 14);
        assert_eq!(reading.get(NUMBERS, &300).unwrap(), None);
        assert!(
            reading.rows(COUNTS, ..).unwrap().iter().all(|((of, _), number)| *of == 0 && number % 2 == 0)
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_put_aside() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.redb");
        drop(Disk::open(&path, &["numbers"]).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(9).for_each(|byte| *byte = 0x5a);
        std::fs::write(&path, &bytes).unwrap();
        let disk = Disk::open(&path, &["numbers"]).unwrap();
        assert_eq!(disk.read().unwrap().count(NUMBERS, ..).unwrap(), 0);
        assert_eq!(std::fs::read(path.with_extension("broken")).unwrap(), bytes);
    }
}
