//! The private nats-server: it is ours, it keeps what it acknowledged, and it is gone when it is dropped.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::{io::ErrorKind, path::Path, time::Duration};

use testkit::{nats::NatsServer, wait::eventually};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_restart_keeps_port_and_store() {
    let mut nats = NatsServer::start().await;
    let info =
        request(&nats, "$JS.API.STREAM.CREATE.S", r#"{"name":"S","subjects":["s"],"storage":"file"}"#).await;
    assert!(info.contains("\"did_create\":true"), "{info}");
    assert!(request(&nats, "s", "kept").await.contains("\"seq\":1"));

    let (url, pid) = (nats.url(), nats.pid());
    nats.kill();
    assert_eq!(
        TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    nats.restart().await;
    assert_eq!(nats.url(), url);
    assert_ne!(nats.pid(), pid);
    assert!(request(&nats, "$JS.API.STREAM.INFO.S", "").await.contains("\"messages\":1"));

    nats.stop();
    nats.restart().await;
    assert!(request(&nats, "$JS.API.STREAM.INFO.S", "").await.contains("\"messages\":1"));
}

#[tokio::test]
async fn variants_are_what_they_say() {
    assert!(
        !greeting(&NatsServer::options().without_jetstream().start().await)
            .await
            .contains("\"jetstream\":true")
    );

    let old = greeting(&NatsServer::options().old().start().await).await;
    assert!(old.contains("\"version\":\"2.9"), "{old}");

    let small = NatsServer::options().max_file_store(4096).start().await;
    let create = r#"{"name":"S","subjects":["s"],"storage":"file","max_bytes":8192}"#;
    assert!(request(&small, "$JS.API.STREAM.CREATE.S", create).await.contains("insufficient storage"));

    let guarded = NatsServer::options().config("authorization { token: secret }").start().await;
    assert!(greeting(&guarded).await.contains("\"auth_required\":true"));
}

#[tokio::test]
async fn nothing_is_left_when_it_is_dropped() {
    let nats = NatsServer::start().await;
    let (pid, store) = (nats.pid(), nats.store());
    assert!(Path::new(&format!("/proc/{pid}")).exists() && store.exists());
    drop(nats);
    assert!(!Path::new(&format!("/proc/{pid}")).exists() && !store.exists());
}

async fn greeting(nats: &NatsServer) -> String {
    let socket = TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap();
    BufReader::new(socket).lines().next_line().await.unwrap().unwrap()
}

/// The bare protocol, so that this crate needs no client.
async fn request(nats: &NatsServer, subject: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap();
    let text = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB reply 1\r\nPUB {subject} reply {}\r\n{body}\r\n",
        body.len()
    );
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    eventually("a reply", SOON, async || {
        socket.read_buf(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        text.split_once("MSG reply 1 ")
            .map(|(_, message)| message.to_owned())
            .filter(|message| message.trim_end().ends_with('}'))
    })
    .await
}
