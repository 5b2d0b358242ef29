//! The totals on disk. They change together with the stream's position, so that whatever ends this process, each
//! message is counted once.

use std::{
    collections::BTreeMap,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bus::reader::Position;
use contract::{NodeName, ServerName, fleet::ServerId, users::UserId};
use disk::{Disk, Table, blocking};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    Error,
    fold::{Changes, NodeSum, Sum, Totals},
};

/// The file in the state directory.
const FILE: &str = "stats.redb";

const USERS: Table<Uuid, Sum> = Table::new("users");
/// By id; with the name.
const SERVERS: Table<Uuid, (ServerName, Sum)> = Table::new("servers");
/// By name; with the last number that was counted of each journal.
const NODES: Table<NodeName, (Sum, BTreeMap<Uuid, u64>)> = Table::new("nodes");
/// The one row: when the stream came to be, in nanoseconds since 1970, and the last of its messages that was counted.
const POSITION: Table<(), (i64, u64)> = Table::new("position");

/// The file. It is made when there is something to keep.
pub(crate) struct Store {
    path: PathBuf,
    disk: OnceCell<Arc<Disk>>,
}

impl Store {
    /// Opens it, if there is one; with what was kept.
    pub(crate) async fn open(state_dir: &Path) -> Result<(Self, Totals), Error> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        made.map_err(|error| Error::Store(format!("make {}: {error}", state_dir.display())))?;
        let store = Self { path: state_dir.join(FILE), disk: OnceCell::new() };
        if !store.path.exists() {
            return Ok((store, Totals::default()));
        }
        let disk = store.disk().await?;
        let totals = blocking(move || load(&disk)).await?;
        Ok((store, totals))
    }

    async fn disk(&self) -> Result<Arc<Disk>, Error> {
        let path = self.path.clone();
        let open =
            || blocking(move || Disk::open(&path, &["users", "servers", "nodes", "position"]).map(Arc::new));
        Ok(self.disk.get_or_try_init(open).await?.clone())
    }

    /// Keeps what changed, all of it or nothing.
    pub(crate) async fn keep(&self, changes: &Arc<Changes>) -> Result<(), Error> {
        let (disk, changes) = (self.disk().await?, changes.clone());
        Ok(blocking(move || write(&disk, &changes)).await?)
    }
}

fn write(disk: &Disk, changes: &Changes) -> Result<(), disk::Error> {
    let writing = disk.write()?;
    {
        let mut users = writing.rows(USERS)?;
        for (id, sum) in &changes.users {
            users.put(&id.0, sum)?;
        }
        let mut servers = writing.rows(SERVERS)?;
        for (id, name, sum) in &changes.servers {
            servers.put(&id.0, &(name.clone(), *sum))?;
        }
        let mut nodes = writing.rows(NODES)?;
        for (node, of) in &changes.nodes {
            nodes.put(node, &(of.sum, of.boots.clone()))?;
        }
    }
    let Position { created, sequence } = changes.position;
    writing.put(POSITION, &(), &(created, sequence))?;
    writing.commit()
}

fn load(disk: &Disk) -> Result<Totals, disk::Error> {
    let reading = disk.read()?;
    let users = reading.rows(USERS, ..)?.into_iter().map(|(id, sum)| (UserId(id), sum)).collect();
    let servers = reading.rows(SERVERS, ..)?.into_iter().map(|(id, of)| (ServerId(id), of)).collect();
    let nodes = reading.rows(NODES, ..)?.into_iter();
    let nodes = nodes.map(|(node, (sum, boots))| (node, NodeSum { sum, boots })).collect();
    let position = reading.get(POSITION, &())?;
    let position = position.map(|(created, sequence)| Position { created, sequence }).unwrap_or_default();
    Ok(Totals::kept(users, servers, nodes, position))
}
