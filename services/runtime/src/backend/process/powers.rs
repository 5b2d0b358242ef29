//! What the agent itself may do, and so what it can take away from a child or give to it.

use std::{fs, path::Path};

use contract::{Code, Port};

use super::{Error, Spec, run_dir};
use crate::backend::Rights;

// Numbers of capabilities(7).
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;

/// What the agent may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Powers {
    /// The permitted capabilities, as bits.
    permitted: u64,
    root: bool,
    /// From here on a port needs no capability.
    pub(super) first_free_port: u16,
}

impl Powers {
    pub(super) fn of_this_process() -> Result<Self, Error> {
        let path = Path::new("/proc/self/status");
        let status = fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let permitted = permitted.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        let first_free_port = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first_free_port = first_free_port.ok().and_then(|port| port.trim().parse().ok()).unwrap_or(1024);
        Ok(Self { permitted, root: run_dir::ourselves().uid == 0, first_free_port })
    }

    /// Whether a child can be another user, which is the better part of being bound.
    pub(super) fn switch_user(self) -> bool {
        self.root && self.has(SETUID) && self.has(SETGID)
    }

    /// Whether capabilities can be taken away for good.
    pub(super) fn bound(self) -> bool {
        self.has(SETPCAP)
    }

    /// Whether children can listen on any port.
    pub(super) fn any_port(self) -> bool {
        self.has(NET_BIND_SERVICE)
    }

    /// Whether children can set up networks.
    pub(super) fn networks(self) -> bool {
        self.root && self.has(NET_ADMIN)
    }

    /// Whether the port needs a capability.
    pub(super) fn is_low(self, port: Port) -> bool {
        port.get() < self.first_free_port
    }

    /// Refuses what would fail later, with the right that is lacking.
    pub(super) fn suffice_for(self, spec: &Spec) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(Code::RUNTIME_NOT_PERMITTED, why));
        if spec.rights == Rights::Network && !self.networks() {
            return refuse(
                "setting up a network needs an agent that is root and has CAP_NET_ADMIN".to_owned(),
            );
        }
        if let Some((port, _)) = spec.ports.iter().find(|(port, _)| self.is_low(*port))
            && !self.any_port()
        {
            let first = self.first_free_port;
            return refuse(format!(
                "port {port} is below {first}: it needs an agent with CAP_NET_BIND_SERVICE"
            ));
        }
        Ok(())
    }

    fn has(self, capability: u32) -> bool {
        self.permitted & (1 << capability) != 0
    }
}
