//! Whether a port is free, and who holds it if not.
//!
//! Engines bind with `SO_REUSEPORT`, so a second one on a port would start without a word and get half of the
//! connections. We bind without it, which the kernel refuses while anybody else is bound.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use contract::{Code, Port, value::Transport};
use tokio::net::TcpSocket;

use super::Error;

/// Refuses the first port that is taken.
pub(super) fn are_free(ports: &[(Port, Transport)]) -> Result<(), Error> {
    for (port, transport) in ports {
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let free = everywhere.iter().all(|ip| is_free(SocketAddr::new(*ip, port.get()), *transport));
        if !free {
            let name = format!("{port}/{}", transport.as_str());
            let holder = holder(*port, *transport).map_or_else(String::new, |holder| format!(" by {holder}"));
            return Err(Error::new(
                Code::RUNTIME_PORT_IN_USE,
                format!("port {name} is already in use{holder}"),
            ));
        }
    }
    Ok(())
}

fn is_free(address: SocketAddr, transport: Transport) -> bool {
    match bind(address, transport) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => false,
        // A low port that we may not bind, but the child may.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Port::try_from(u64::from(address.port())).is_ok_and(|port| sockets(port, transport).is_empty())
        }
        // No IPv6 here.
        Err(_) => true,
    }
}

fn bind(address: SocketAddr, transport: Transport) -> io::Result<()> {
    match transport {
        Transport::Udp => UdpSocket::bind(address).map(drop),
        Transport::Tcp => {
            // Bound, but not listening: nobody can connect to it meanwhile.
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of the last run may linger; only listeners are in the way.
            socket.set_reuseaddr(true)?;
            socket.bind(address)
        }
    }
}

/// The program that has a socket on the port, as far as we may look.
fn holder(port: Port, transport: Transport) -> Option<String> {
    let sockets: Vec<String> =
        sockets(port, transport).into_iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // Not `self` and its like.
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The inodes of sockets that are bound to the port, for TCP those that listen (proc_pid_net(5)).
fn sockets(port: Port, transport: Transport) -> Vec<u64> {
    const LISTENS: &str = "0A";
    let name = transport.as_str();
    let tables = [format!("/proc/net/{name}"), format!("/proc/net/{name}6")];
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let mut found = Vec::new();
    for table in tables {
        for line in table.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace();
            let (Some(local), Some(state)) = (fields.nth(1), fields.nth(1)) else { continue };
            let local = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if local == Some(port.get()) && (transport == Transport::Udp || state == LISTENS) {
                found.extend(fields.nth(5).and_then(|inode| inode.parse::<u64>().ok()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn taken(port: u16, transport: Transport) -> Option<String> {
        let port = Port::try_from(u64::from(port)).unwrap();
        let error = are_free(&[(port, transport)]).err()?;
        assert_eq!(error.code, Code::RUNTIME_PORT_IN_USE);
        Some(error.message)
    }

    #[test]
    fn a_held_port_is_named_with_its_holder_and_is_free_afterwards() {
        for ip in ["127.0.0.1", "0.0.0.0"] {
            let tcp = TcpListener::bind((ip, 0)).unwrap();
            let port = tcp.local_addr().unwrap().port();
            let message = taken(port, Transport::Tcp).unwrap();
            assert!(message.contains(&format!("{port}/tcp")), "{message}");
            assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
            assert_eq!(taken(port, Transport::Udp), None);
            drop(tcp);
            assert_eq!(taken(port, Transport::Tcp), None);
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(taken(port, Transport::Udp).unwrap().contains(&format!("{port}/udp")));
    }

    #[test]
    fn a_port_that_is_shared_on_purpose_is_held_all_the_same() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let shared = TcpSocket::new_v6().unwrap();
        shared.set_reuseport(true).unwrap();
        shared.bind("[::]:0".parse().unwrap()).unwrap();
        let listener = shared.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(taken(port, Transport::Tcp).is_some());
    }
}
