//! A client with what `testkit`'s has not: UDP, and an address of its own choice to come from.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use testkit::{ports, process::Process, programs::program, wait::eventually, xray_client::Link};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

use super::server::SOON;

/// A SOCKS proxy without names and passwords (RFC 1928) in front of one server.
pub(crate) struct Proxy {
    socks: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Proxy {
    /// For this link, with connections to the server coming from this address.
    pub(crate) async fn start(link: &str, from: &str) -> Self {
        let port = ports::free();
        let mut outbound = Link::parse(link).unwrap().outbound("server");
        outbound["sendThrough"] = json!(from);
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": port, "protocol": "socks",
                "settings": { "auth": "noauth", "udp": true, "ip": "127.0.0.1" },
            }],
            "outbounds": [outbound],
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("client.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(program("xray"));
        command.arg("run").arg("-c").arg(&file);
        let mut process = Process::spawn("xray (proxy)", &command);
        let socks = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        eventually("the proxy listens", SOON, async || {
            process.must_run();
            TcpStream::connect(socks).await
        })
        .await;
        Self { socks, _process: process, _folder: folder }
    }

    /// A connection to an address, by which the page that never ends is being read.
    pub(crate) async fn hold(&self, to: SocketAddr) -> TcpStream {
        let mut stream = self.ask(1, to).await.0;
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.read_u8().await.unwrap();
        stream
    }

    /// A socket whose datagrams go through the server.
    pub(crate) async fn datagrams(&self) -> Datagrams {
        let (association, relay) = self.ask(3, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(relay).await.unwrap();
        Datagrams { socket, _association: association }
    }

    async fn ask(&self, command: u8, to: SocketAddr) -> (TcpStream, SocketAddr) {
        let mut stream = TcpStream::connect(self.socks).await.unwrap();
        stream.write_all(&[5, 1, 0]).await.unwrap();
        stream.read_exact(&mut [0; 2]).await.unwrap();
        stream
            .write_all(&[&[5, command, 0][..], &address(&to.ip().to_string(), to.port())].concat())
            .await
            .unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await.unwrap();
        let [5, 0, 0, 1, a, b, c, d, high, low] = answer else { panic!("SOCKS: {answer:?}") };
        (stream, SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))))
    }
}

/// One socket of a user's program, with one port for all that it talks to.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    _association: TcpStream,
}

impl Datagrams {
    pub(crate) async fn send(&self, host: &str, port: u16, payload: &[u8]) {
        self.socket.send(&[&[0, 0, 0][..], &address(host, port), payload].concat()).await.unwrap();
    }

    /// The next datagram's payload, if one comes in time.
    pub(crate) async fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let length = tokio::time::timeout(within, self.socket.recv(&mut buffer)).await.ok()?.unwrap();
        let head = match buffer[3] {
            1 => 3 + 1 + 4 + 2,
            4 => 3 + 1 + 16 + 2,
            _ => 3 + 1 + 1 + usize::from(buffer[4]) + 2,
        };
        Some(buffer[head..length].to_vec())
    }

    /// Sends until an answer comes: a tunnel's first datagrams may be lost.
    pub(crate) async fn ask(&self, host: &str, port: u16, payload: &[u8]) -> Vec<u8> {
        eventually("an answer comes", SOON, async || {
            self.send(host, port, payload).await;
            self.receive(Duration::from_millis(500)).await
        })
        .await
    }
}

fn address(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = match host.parse() {
        Ok(IpAddr::V4(ip)) => [&[1][..], &ip.octets()].concat(),
        Ok(IpAddr::V6(ip)) => [&[4][..], &ip.octets()].concat(),
        Err(_) => [&[3, u8::try_from(host.len()).unwrap()][..], host.as_bytes()].concat(),
    };
    bytes.extend(port.to_be_bytes());
    bytes
}
