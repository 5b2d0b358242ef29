//! Open sessions, and how they end when their user may not connect any more.
//!
//! The access log says who connected from where; the kernel says which of these connections still exist, and ends
//! them. Whoever is not among the users that may connect loses every connection, also one whose line in the log comes
//! late: it was accepted in the moment in which its user was removed, or it is a multiplexed one that does something
//! for the first time. So the log is followed as long as the instance is ours.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use contract::Code;

use super::{access_log::AccessLog, config::ACCESS_LOG, files, owners::Owners};
use crate::{backend::Error, sockets};

/// What was known of connections when the log was last freed, in the run directory.
const SESSIONS: &str = "sessions";

/// The open sessions of one engine.
#[derive(Debug)]
pub(super) struct Sessions {
    run_dir: PathBuf,
    /// The server's port, to which the connections go.
    port: u16,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: AccessLog,
    owners: Owners,
    /// The instance's first process.
    pid: Option<u32>,
    /// Who may connect; nobody is cut off before that is known.
    allowed: Option<HashSet<Arc<str>>>,
}

impl Sessions {
    /// Knows what an earlier agent has written down, if anything.
    pub(super) fn new(run_dir: PathBuf, port: u16) -> Self {
        let state = State {
            log: AccessLog::new(run_dir.join(ACCESS_LOG)),
            owners: Owners::read(&run_dir.join(SESSIONS)),
            pid: None,
            allowed: None,
        };
        Self { run_dir, port, state: Mutex::new(state) }
    }

    /// The engine is about to start: what there was is gone. Blocks.
    pub(super) fn forget(&self) -> io::Result<()> {
        let mut state = self.lock();
        files::remove(&self.run_dir.join(ACCESS_LOG))?;
        files::remove(&self.run_dir.join(SESSIONS))?;
        *state = State {
            log: AccessLog::new(self.run_dir.join(ACCESS_LOG)),
            owners: Owners::default(),
            pid: None,
            allowed: None,
        };
        Ok(())
    }

    /// The engine's first process.
    pub(super) fn are_of(&self, pid: u32) {
        self.lock().pid = Some(pid);
    }

    /// From now on exactly these may be connected.
    pub(super) fn allow_only<'a>(&self, users: impl Iterator<Item = &'a str>) {
        self.lock().allowed = Some(users.map(Arc::from).collect());
    }

    /// From now on these may be connected, too.
    pub(super) fn allow<'a>(&self, users: impl Iterator<Item = &'a str>) {
        if let Some(allowed) = &mut self.lock().allowed {
            allowed.extend(users.map(Arc::from));
        }
    }

    /// Whether this one may be connected.
    pub(super) fn allows(&self, user: &str) -> bool {
        self.lock().allowed.as_ref().is_some_and(|allowed| allowed.contains(user))
    }

    /// From now on these may not.
    pub(super) fn forbid<'a>(&self, users: impl Iterator<Item = &'a str>) {
        if let Some(allowed) = &mut self.lock().allowed {
            users.for_each(|user| {
                allowed.remove(user);
            });
        }
    }

    /// Reads on in the log; true where somebody in it may not be connected. Blocks.
    pub(super) fn read_on(&self) -> Result<bool, Error> {
        self.lock().read_on().map_err(|error| self.unreadable(&error))
    }

    /// Ends the sessions of everybody who may not be connected, and of these. Blocks.
    pub(super) fn end(&self, users: &HashSet<&str>) -> Result<(), Error> {
        let mut state = self.lock();
        state.read_on().map_err(|error| self.unreadable(&error))?;
        let state = &mut *state;
        let may_not = |name: &str| {
            users.contains(name) || state.allowed.as_ref().is_some_and(|allowed| !allowed.contains(name))
        };
        if !state.owners.any(may_not) {
            return Ok(());
        }
        let end = |peer: &SocketAddr| state.owners.of(peer).is_some_and(may_not);
        self.end_where(state.pid, end).map(|_| ())
    }

    /// Ends what nobody is known to own and comes from these addresses: sessions of users who are gone, by the
    /// engine's own count, whose lines the log has lost (it drops lines when it cannot keep up). Blocks.
    pub(super) fn end_unknown(&self, from: &BTreeMap<String, i64>) -> Result<usize, Error> {
        let from: HashSet<IpAddr> =
            from.keys().filter_map(|address| without_brackets(address).parse().ok()).collect();
        let mut state = self.lock();
        state.read_on().map_err(|error| self.unreadable(&error))?;
        let end = |peer: &SocketAddr| from.contains(&peer.ip()) && state.owners.of(peer).is_none();
        self.end_where(state.pid, end)
    }

    /// Forgets connections that have ended and gives back the place of what was read. Blocks.
    pub(super) fn tidy(&self) -> Result<(), Error> {
        let mut state = self.lock();
        let (many, long) = (state.owners.are_many(), state.log.is_long());
        let Some(pid) = state.pid.filter(|_| many || long) else { return Ok(()) };
        let at = Instant::now();
        let listed = sockets::connections(pid, self.port).map(|there| {
            state.owners.keep(&there.iter().map(|connection| connection.peer).collect(), at);
        });
        if long {
            // Whatever is wrong, the log must not grow for ever: where the disk is full it may be what fills it. Only
            // an agent that starts anew misses what could not be written down.
            let written = state.owners.write(&self.run_dir.join(SESSIONS));
            state.log.free().map_err(|error| Error::file("free", &self.run_dir.join(ACCESS_LOG), &error))?;
            written?;
        }
        listed.map_err(|error| self.cannot("list", &error))
    }

    fn end_where(&self, pid: Option<u32>, end: impl Fn(&SocketAddr) -> bool) -> Result<usize, Error> {
        let Some(pid) = pid else { return Ok(0) };
        let mut there = sockets::connections(pid, self.port).map_err(|error| self.cannot("list", &error))?;
        there.retain(|connection| end(&connection.peer));
        sockets::end(pid, &there).map_err(|error| self.cannot(&format!("end {} of", there.len()), &error))?;
        Ok(there.len())
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::file("read", &self.run_dir.join(ACCESS_LOG), error)
    }

    fn cannot(&self, what: &str, error: &io::Error) -> Error {
        let code =
            if sockets::may_not(error) { Code::RUNTIME_NOT_PERMITTED } else { Code::RUNTIME_ENGINE_FAILED };
        Error::new(
            code,
            format!(
                "cannot {what} the sessions on port {}: {error}; it takes CAP_NET_ADMIN, and CAP_SYS_ADMIN for containers",
                self.port
            ),
        )
    }

    /// A panic while it was held would be a bug; what it holds is still the best that is known.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read_on(&mut self) -> io::Result<bool> {
        let mut strangers = false;
        let Self { log, owners, allowed, .. } = self;
        log.read(|accepted| {
            let name = owners.insert(&accepted);
            strangers |= allowed.as_ref().is_some_and(|allowed| !allowed.contains(&*name));
        })?;
        Ok(strangers)
    }
}

/// Xray writes IPv6 addresses in brackets.
fn without_brackets(address: &str) -> &str {
    address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address)
}
