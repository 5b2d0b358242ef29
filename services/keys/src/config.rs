//! What the service is told at its start. The environment is read by `vpnd`.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// How `keys` is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that holds the master key; only its owner may read it.
    pub master_key_file: PathBuf,
    /// Whether a master key is made where there is none. Never where something was sealed before: a lost key is
    /// not replaced by another.
    pub create_master_key: bool,
    /// The resolvers in WireGuard files. A full tunnel takes the way to the one that a client had, mostly at a
    /// private address, and servers let nobody reach those: without another no name would resolve.
    pub resolvers: Vec<IpAddr>,
}

/// Cloudflare's, at two addresses: answers from everywhere and keeps no logs of who asked.
const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(1, 0, 0, 1)];

impl Config {
    /// With the master key in this file, which must be there.
    pub fn new(master_key_file: impl Into<PathBuf>) -> Self {
        Self {
            master_key_file: master_key_file.into(),
            create_master_key: false,
            resolvers: RESOLVERS.map(IpAddr::from).to_vec(),
        }
    }

    /// The same; the first start makes the master key.
    #[must_use]
    pub fn creating(self) -> Self {
        Self { create_master_key: true, ..self }
    }
}
