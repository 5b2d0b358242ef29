//! Ending other programs' TCP connections.
//!
//! With `CAP_NET_ADMIN` the kernel destroys a socket (`sock_diag(7)`, `SOCK_DESTROY`): its peer sees a reset at once.
//! Without, a program of our own user in our own namespace can still be made to lose a connection: its descriptor is
//! copied (`pidfd_getfd(2)`) and the connection shut down through the copy.

use std::{
    collections::HashSet,
    io::{self, ErrorKind, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    time::Duration,
};

use contract::runtime::Check;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::{
    net::{Shutdown, shutdown, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
    thread::{CapabilitySet, capabilities},
};

use crate::netns;

/// The kernel answers in microseconds; past this something is broken, and nobody should wait for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A TCP connection that a program in the namespace holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The other end; an IPv4 address also where the socket is an IPv6 one.
    pub peer: SocketAddr,
    family: u8,
    id: SocketId,
    inode: u32,
}

/// The connections to a port in the network namespace of the process.
pub fn connections(pid: u32, port: u16) -> io::Result<Vec<Connection>> {
    netns::within(pid, || Diag::open()?.connections(port))?
}

/// Ends connections that [`connections`] found; those that have ended meanwhile count as ended.
pub fn end(pid: u32, connections: &[Connection]) -> io::Result<()> {
    if connections.is_empty() {
        return Ok(());
    }
    let destroyed = netns::within(pid, || {
        let mut diag = Diag::open()?;
        connections.iter().try_for_each(|connection| diag.destroy(connection))
    });
    match destroyed.and_then(|destroyed| destroyed) {
        Err(error) if may_not(&error) && netns::is_ours(pid).unwrap_or(false) => {
            // The first reason says what is missing.
            shut_down(pid, connections).map_err(|_| error)
        }
        done => done,
    }
}

/// Whether we lack the right to do it, or the kernel the way.
pub fn may_not(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

/// What can be said for `vpn doctor`: whether we can end connections, tried on one of our own.
pub fn check() -> Check {
    let name = "cut-off users lose open sessions".to_owned();
    let others = capabilities(None).is_ok_and(|have| have.effective.contains(CapabilitySet::SYS_ADMIN));
    match try_on_ourselves() {
        Ok(()) if others => {
            Check { name, ok: true, detail: "in containers and in child processes".to_owned() }
        }
        Ok(()) => Check {
            name,
            ok: true,
            detail: "in child processes; for containers the agent needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
                .to_owned(),
        },
        Err(error) => Check {
            name,
            ok: false,
            detail: format!(
                "open sessions may outlive their users: {error}; run the agent with CAP_NET_ADMIN, on a kernel with INET_DIAG_DESTROY"
            ),
        },
    }
}

fn try_on_ourselves() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (_server, peer) = listener.accept()?;
    let us = std::process::id();
    let found = connections(us, listener.local_addr()?.port())?;
    let ours: Vec<Connection> = found.into_iter().filter(|connection| connection.peer == peer).collect();
    end(us, &ours)?;
    client.set_read_timeout(Some(ANSWER_WITHIN))?;
    match client.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Ok(_) => Err(io::Error::other("a connection survived its end")),
        Err(error) => Err(error),
    }
}

/// Finds the process's descriptors of the connections, and shuts them down through copies.
fn shut_down(pid: u32, connections: &[Connection]) -> io::Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidInput)?;
    let process = pidfd_open(raw, PidfdFlags::empty())?;
    let wanted: HashSet<String> =
        connections.iter().map(|connection| format!("socket:[{}]", connection.inode)).collect();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // One that is gone by now has ended.
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| is_one_of(&wanted, &target)) {
            let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            match shutdown(&copy, Shutdown::Both) {
                Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn is_one_of(wanted: &HashSet<String>, target: &Path) -> bool {
    target.to_str().is_some_and(|target| wanted.contains(target))
}

/// The kernel's socket tables, in the namespace of the thread that opened it.
struct Diag {
    socket: Socket,
}

impl Diag {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        sockopt::set_socket_timeout(socket.as_fd(), sockopt::Timeout::Recv, Some(ANSWER_WITHIN))?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    fn connections(&mut self, port: u16) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        for (family, mut id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            id.source_port = port;
            self.send(SockDiagMessage::InetRequest(request(family, id)), NLM_F_DUMP)?;
            self.answers(|answer| {
                if let SockDiagMessage::InetResponse(answer) = answer
                    // Without an inode nobody holds it: it is not accepted yet, or closed and not forgotten yet.
                    && answer.header.inode != 0
                {
                    let header = answer.header;
                    let id = header.socket_id;
                    let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
                    found.push(Connection { peer, family: header.family, id, inode: header.inode });
                }
            })?;
        }
        Ok(found)
    }

    fn destroy(&mut self, connection: &Connection) -> io::Result<()> {
        let request = request(connection.family, connection.id.clone());
        self.send(SockDiagDestroy::new(SockDiagMessage::InetRequest(request)), NLM_F_ACK)?;
        match self.answers(|_| {}) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn send<M: NetlinkSerializable>(&self, message: M, flags: u16) -> io::Result<()>
    where
        NetlinkPayload<M>: From<M>,
    {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// Takes answers until the kernel says that it is done.
    fn answers(&self, mut take: impl FnMut(SockDiagMessage)) -> io::Result<()> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages in a row start at multiples of four.
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length.max(16)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(answer) => take(answer),
                    _ => {}
                }
            }
        }
    }
}

/// For sockets in any state in which two ends know of each other; those that have only a memory left
/// (`TIME_WAIT`) belong to no program.
fn request(family: u8, socket_id: SocketId) -> InetRequest {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE;
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use rustix::thread::{CapabilitySets, set_capabilities};

    use super::*;

    struct Pair {
        _listener: TcpListener,
        port: u16,
        client: TcpStream,
        server: TcpStream,
    }

    fn pair() -> Pair {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        client.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        let (server, _) = listener.accept().unwrap();
        Pair { _listener: listener, port, client, server }
    }

    #[test]
    fn a_connection_is_known_by_its_peer_also_where_the_socket_is_an_ipv6_one() {
        let Pair { port, client, .. } = &pair();
        let found = connections(std::process::id(), *port).unwrap();
        let peers: Vec<SocketAddr> = found.iter().map(|connection| connection.peer).collect();
        assert_eq!(peers, [client.local_addr().unwrap()]);
    }

    #[test]
    fn connections_end_without_the_kernels_help_too() {
        let Pair { port, mut client, mut server, .. } = pair();
        let mut other = pair();
        // Rights belong to a thread, so this one can do without.
        let unprivileged = move || {
            let none = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
                .unwrap();
            let us = std::process::id();
            end(us, &connections(us, port).unwrap())
        };
        thread::spawn(unprivileged).join().unwrap().unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(server.write_all(b"x").is_err());
        other.server.write_all(b"x").unwrap();
        other.client.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn what_doctor_is_told_was_tried() {
        let check = check();
        assert!(check.ok, "{}", check.detail);
    }
}
