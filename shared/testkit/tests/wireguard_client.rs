//! The tries of a handshake against servers that answer late.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gotatun::{
    noise::{Tunn, TunnResult, index_table::IndexTable, rate_limiter::RateLimiter},
    packet::Packet,
    x25519::{PublicKey, StaticSecret},
};
use testkit::{ports::free, wireguard_client::handshake};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

const SERVER: [u8; 32] = [1; 32];
const USER: [u8; 32] = [2; 32];
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Many times what a handshake takes even beside other tests.
const WITHIN: Duration = Duration::from_secs(10);

/// What comes while a device takes in other users waits at its socket, and is answered all at once.
#[tokio::test]
async fn a_server_that_was_busy_is_understood() {
    let socket = UdpSocket::bind((HOST, 0)).await.unwrap();
    let file = file(socket.local_addr().unwrap());
    let server = tokio::spawn(async move {
        // Time for some ten tries.
        sleep(Duration::from_millis(60)).await;
        serve(socket, Duration::ZERO).await;
    });
    handshake(&file, HOST.into(), WITHIN).await.unwrap();
    server.abort();
}

/// Each answer takes longer than several tries.
#[tokio::test]
async fn a_server_far_away_is_understood() {
    let socket = UdpSocket::bind((HOST, 0)).await.unwrap();
    let file = file(socket.local_addr().unwrap());
    let server = tokio::spawn(serve(socket, Duration::from_millis(300)));
    handshake(&file, HOST.into(), WITHIN).await.unwrap();
    server.abort();
}

/// A handshake that is begun before there is anybody to answer.
#[tokio::test]
async fn a_server_that_comes_later_is_found() {
    let address = SocketAddr::from((HOST, free()));
    let server: JoinHandle<()> = tokio::spawn(async move {
        sleep(Duration::from_millis(60)).await;
        serve(UdpSocket::bind(address).await.unwrap(), Duration::ZERO).await;
    });
    handshake(&file(address), HOST.into(), WITHIN).await.unwrap();
    server.abort();
}

/// Who is not known hears nothing, which is an error and no endless wait.
#[tokio::test]
async fn silence_is_an_error() {
    let socket = UdpSocket::bind((HOST, 0)).await.unwrap();
    let file = file(socket.local_addr().unwrap());
    let error = handshake(&file, HOST.into(), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

/// Answers each handshake of the user, so much later.
async fn serve(socket: UdpSocket, late: Duration) {
    let private_key = StaticSecret::from(SERVER);
    let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&private_key), u64::MAX));
    let user = PublicKey::from(&StaticSecret::from(USER));
    let mut tunnel = Tunn::new(private_key, user, None, None, IndexTable::from_os_rng(), limiter);
    let socket = Arc::new(socket);
    let (answers, mut due) = mpsc::unbounded_channel::<(Instant, Packet, SocketAddr)>();
    let answering = Arc::clone(&socket);
    tokio::spawn(async move {
        while let Some((at, packet, to)) = due.recv().await {
            sleep_until(at).await;
            answering.send_to(&packet, to).await.unwrap();
        }
    });
    let mut packet = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await.unwrap();
        let packet = Packet::copy_from(&packet[..length]).try_into_wg().unwrap();
        if let TunnResult::WriteToNetwork(answer) = tunnel.handle_incoming_packet(packet) {
            answers.send((Instant::now() + late, answer.into(), from)).unwrap();
        }
    }
}

fn file(server: SocketAddr) -> String {
    let public_key = PublicKey::from(&StaticSecret::from(SERVER));
    format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.64.0.2/32\n\n\
         [Peer]\nPublicKey = {}\nEndpoint = {server}\nAllowedIPs = 0.0.0.0/0\n",
        STANDARD.encode(USER),
        STANDARD.encode(public_key.as_bytes()),
    )
}
