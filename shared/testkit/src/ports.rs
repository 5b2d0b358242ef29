//! Ports that nobody else takes.
//!
//! A port that the kernel picked and that is let go of for a moment, by a server that restarts for example, may be
//! the local end of somebody's connection the next moment. So ports come from below the range from which the
//! kernel picks. Each test process reserves blocks of them by binding a name that belongs to the network namespace,
//! as ports do, and that is free again when the process ends, however it ends.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{Mutex, PoisonError},
};

const FIRST: u16 = 10_000;
/// The kernel picks from 32768 on, unless told otherwise.
const LAST: u16 = 32_000;
const BLOCK: u16 = 50;

#[derive(Default)]
struct Reserved {
    /// Bound for as long as the process lives.
    blocks: Vec<UnixListener>,
    left: Vec<u16>,
}

static RESERVED: Mutex<Option<Reserved>> = Mutex::new(None);

/// A port, free for TCP and UDP on all addresses, which this process hands out once.
pub fn free() -> u16 {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let reserved = reserved.get_or_insert_default();
    loop {
        while let Some(port) = reserved.left.pop() {
            if is_free(port) {
                return port;
            }
        }
        reserve_block(reserved);
    }
}

fn reserve_block(reserved: &mut Reserved) {
    for start in (FIRST..LAST).step_by(usize::from(BLOCK)) {
        let name = SocketAddr::from_abstract_name(format!("vpn-testkit-ports-{start}")).unwrap();
        if let Ok(block) = UnixListener::bind_addr(&name) {
            reserved.blocks.push(block);
            reserved.left = (start..start + BLOCK).rev().collect();
            return;
        }
    }
    panic!("no ports are left: {} blocks of {BLOCK} are taken", (LAST - FIRST) / BLOCK);
}

fn is_free(port: u16) -> bool {
    let any = (Ipv4Addr::UNSPECIFIED, port);
    TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn ports_differ_also_beyond_one_block() {
        let ports: Vec<u16> = (0..120).map(|_| super::free()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }
}
