//! The totals on disk. They change together with the stream's position, so that whatever ends this process, each
//! message is counted once.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
};

use bus::reader::Position;
use contract::{fleet::ServerId, usage::Traffic, users::UserId};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::{
    Error,
    fold::{Changes, NodeSum, Sum, Totals},
};

/// The file in the state directory.
const FILE: &str = "stats.redb";
/// Pages that are kept in memory, in bytes.
const CACHE: usize = 1024 * 1024;

/// Up, down, and when last in milliseconds since 1970.
type Row = (u64, u64, i64);

const USERS: TableDefinition<u128, Row> = TableDefinition::new("users");
const SERVERS: TableDefinition<u128, (&str, u64, u64, i64)> = TableDefinition::new("servers");
const NODES: TableDefinition<&str, Row> = TableDefinition::new("nodes");
/// By node and journal: the last number that was counted.
const BOOTS: TableDefinition<(&str, u128), u64> = TableDefinition::new("boots");
/// The one row: when the stream came to be, in nanoseconds since 1970, and the last of its messages that was counted.
const POSITION: TableDefinition<(), (i64, u64)> = TableDefinition::new("position");

/// The file.
#[derive(Clone)]
pub(crate) struct Store(Arc<Database>);

impl Store {
    /// Opens it, or makes it; with what was kept.
    pub(crate) async fn open(state_dir: &Path) -> Result<(Self, Totals), Error> {
        let state_dir = state_dir.to_owned();
        blocking(move || {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir);
            made.map_err(|error| Error::Store(format!("make {}: {error}", state_dir.display())))?;
            let database = Database::builder().set_cache_size(CACHE).create(state_dir.join(FILE))?;
            let writing = database.begin_write()?;
            writing.open_table(USERS)?;
            writing.open_table(SERVERS)?;
            writing.open_table(NODES)?;
            writing.open_table(BOOTS)?;
            writing.open_table(POSITION)?;
            writing.commit()?;
            let totals = load(&database)?;
            Ok((Self(Arc::new(database)), totals))
        })
        .await
    }

    /// Keeps what changed, all of it or nothing.
    pub(crate) async fn keep(&self, changes: &Arc<Changes>) -> Result<(), Error> {
        let (database, changes) = (self.0.clone(), changes.clone());
        blocking(move || write(&database, &changes)).await
    }
}

fn write(database: &Database, changes: &Changes) -> Result<(), Error> {
    let writing = database.begin_write()?;
    {
        let mut users = writing.open_table(USERS)?;
        for (id, sum) in &changes.users {
            users.insert(id.0.as_u128(), row(sum))?;
        }
        let mut servers = writing.open_table(SERVERS)?;
        for (id, name, sum) in &changes.servers {
            let (up, down, last) = row(sum);
            servers.insert(id.0.as_u128(), (name.as_str(), up, down, last))?;
        }
        let (mut nodes, mut boots) = (writing.open_table(NODES)?, writing.open_table(BOOTS)?);
        for (node, of) in &changes.nodes {
            nodes.insert(node.as_str(), row(&of.sum))?;
            boots.retain_in((node.as_str(), 0)..=(node.as_str(), u128::MAX), |(_, boot), _| {
                of.boots.contains_key(&Uuid::from_u128(boot))
            })?;
            for (boot, sequence) in &of.boots {
                boots.insert((node.as_str(), boot.as_u128()), sequence)?;
            }
        }
        let Position { created, sequence } = changes.position;
        writing.open_table(POSITION)?.insert((), (created, sequence))?;
    }
    writing.commit()?;
    Ok(())
}

fn load(database: &Database) -> Result<Totals, Error> {
    let reading = database.begin_read()?;
    let mut users = HashMap::new();
    for kept in reading.open_table(USERS)?.iter()? {
        let (id, of) = kept?;
        users.insert(UserId(Uuid::from_u128(id.value())), sum(of.value()));
    }
    let mut servers = HashMap::new();
    for kept in reading.open_table(SERVERS)?.iter()? {
        let (id, of) = kept?;
        let (name, up, down, last) = of.value();
        let Ok(name) = name.parse() else { continue };
        servers.insert(ServerId(Uuid::from_u128(id.value())), (name, sum((up, down, last))));
    }
    let mut nodes = BTreeMap::<_, NodeSum>::new();
    for kept in reading.open_table(NODES)?.iter()? {
        let (node, of) = kept?;
        let Ok(node) = node.value().parse() else { continue };
        nodes.insert(node, NodeSum { sum: sum(of.value()), boots: BTreeMap::new() });
    }
    for kept in reading.open_table(BOOTS)?.iter()? {
        let (key, sequence) = kept?;
        let (node, boot) = key.value();
        let Ok(node) = node.parse() else { continue };
        nodes.entry(node).or_default().boots.insert(Uuid::from_u128(boot), sequence.value());
    }
    let position = reading.open_table(POSITION)?.get(())?.map_or(Position::default(), |kept| {
        let (created, sequence) = kept.value();
        Position { created, sequence }
    });
    Ok(Totals::kept(users, servers, nodes, position))
}

fn row(sum: &Sum) -> Row {
    (sum.traffic.up, sum.traffic.down, sum.last_millis)
}

fn sum((up, down, last_millis): Row) -> Sum {
    Sum { traffic: Traffic { up, down }, last_millis }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Store(format!("it was not done: {error}"))))
}

/// Everything that the store answers with is an error of the same kind here.
macro_rules! from {
    ($($error:ident)+) => {
        $(impl From<redb::$error> for Error {
            fn from(error: redb::$error) -> Self {
                Self::Store(error.to_string())
            }
        })+
    };
}

from! { DatabaseError TransactionError TableError StorageError CommitError }
