//! A wire between a client and its server that can break while something is on its way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bus::Bus;
use testkit::{nats::NatsServer, wait::eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::world::SOON;

/// Where a message of the bucket begins on the wire.
const STATE: &[u8] = b"$KV.lab_counts.";

pub(crate) struct Wire {
    url: String,
    connections: Arc<AtomicUsize>,
    breaks: Arc<AtomicBool>,
    broken: Arc<Notify>,
}

impl Wire {
    pub(crate) async fn to(nats: &NatsServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            url: format!("nats://{}", listener.local_addr().unwrap()),
            connections: Arc::default(),
            breaks: Arc::default(),
            broken: Arc::default(),
        };
        let (port, connections) = (nats.port(), wire.connections.clone());
        let (breaks, broken) = (wire.breaks.clone(), wire.broken.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(client, server, breaks.clone(), broken.clone()));
            }
        });
        wire
    }

    pub(crate) async fn connect(&self) -> Bus {
        Bus::connect(&bus::Config::new(self.url.clone(), "wired")).await.unwrap()
    }

    /// Breaks at the next state that the server sends, and loses it; returns when the client is there again.
    pub(crate) async fn lose(&self, send: impl Future<Output = ()>) {
        let before = self.connections.load(Ordering::SeqCst);
        self.breaks.store(true, Ordering::SeqCst);
        send.await;
        tokio::time::timeout(SOON, self.broken.notified()).await.expect("the server sends what is there");
        let again = async || self.connections.load(Ordering::SeqCst) > before;
        eventually("the client connects again", SOON, again).await;
    }
}

async fn carry(client: TcpStream, server: TcpStream, breaks: Arc<AtomicBool>, broken: Arc<Notify>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
    let mut read = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from_server.read(&mut read).await {
        let sent = &read[..length];
        let is_state = sent.windows(STATE.len()).any(|window| window == STATE);
        if is_state && breaks.swap(false, Ordering::SeqCst) {
            broken.notify_one();
            break;
        }
        to_client.write_all(sent).await.unwrap();
    }
    up.abort();
}
