//! Nothing that is secret is anywhere in the open.

use std::{
    fs,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use contract::{
    Protocol,
    keys::{Link, Rotate, Sealed},
};
use seal::CurveKey;
use testkit::wait::eventually;
use tracing_subscriber::fmt::MakeWriter;

use crate::world::{SOON, World};

/// Everything this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The ways in which bytes are written down.
fn forms(name: &str, secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        secret.to_vec(),
        hex.clone().into_bytes(),
        STANDARD_NO_PAD.encode(secret).into_bytes(),
        URL_SAFE_NO_PAD.encode(secret).into_bytes(),
        format!("{secret:?}").trim_matches(['[', ']']).as_bytes().to_vec(),
    ];
    hex.make_ascii_uppercase();
    forms.push(hex.into_bytes());
    if let Ok(uuid) = uuid::Uuid::from_slice(secret) {
        forms.push(uuid.to_string().into_bytes());
    }
    forms.into_iter().map(|form| (name.to_owned(), form)).collect()
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

fn contains(place: &[u8], needle: &[u8]) -> bool {
    place.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_stream_a_log_or_an_error() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let (mut world, keys) = World::serving().await;
    let node = CurveKey::from_bytes(seal::random().unwrap());
    world.announce("node-1", &node.public()).await;
    let mut secrets = Vec::new();
    let master = world.master();
    let text = fs::read_to_string(world.master_key_file()).unwrap();
    secrets.extend(forms("master key", &STANDARD.decode(text.trim()).unwrap()));
    secrets.extend(forms("key that seals private keys", master.private().as_bytes()));

    let alice = world.create("alice").await;
    let server_keys = world.bus.own().await.unwrap();
    for (protocol, port) in Protocol::ALL.into_iter().zip(1000..) {
        let key = master.delivery(protocol);
        secrets.extend(forms(&format!("delivery key of {protocol}"), key.as_bytes()));
        let server = world.server(&protocol.to_string(), protocol, port, "node-1").await;
        let of_server: contract::keys::ServerKeys = eventually("server keys", SOON, async || {
            server_keys.get(server.name.as_str()).await.unwrap().and_then(|entry| entry.value)
        })
        .await;
        let opened = key.open(&of_server.private, &Sealed::of_server(server.id, protocol)).unwrap();
        secrets.extend(forms(&format!("server key of {protocol}"), &opened));
    }
    for _ in 0..2 {
        let held = world.issued(&alice).await;
        let bound_to = |protocol| Sealed::of_user(held.user_id, held.generation, protocol);
        for (protocol, sealed) in [
            (Protocol::VlessReality, &held.vless_reality),
            (Protocol::Shadowsocks2022, &held.shadowsocks_2022),
            (Protocol::Wireguard, &held.wireguard.preshared_key),
        ] {
            let opened = master.delivery(protocol).open(sealed, &bound_to(protocol)).unwrap();
            secrets.extend(forms(&format!("{protocol} of alice"), &opened));
        }
        let alone = Sealed::of_user_alone(held.user_id, held.generation);
        let opened = master.private().open(&held.wireguard.private_key, &alone).unwrap();
        secrets.extend(forms("WireGuard key of alice", &opened));
        // Links are made, and refused: both leave traces in logs.
        let links = world.bus.call(Link { user: alice.name.clone(), server: None }).await.unwrap();
        assert!(!format!("{links:?}").contains(&links.links[0].link), "a link is not for logs");
        secrets.extend(links.links.into_iter().map(|link| ("a link".to_owned(), link.link.into_bytes())));
        world.bus.call(Link { user: "nobody".parse().unwrap(), server: None }).await.unwrap_err();
        world.bus.call(Rotate { user: alice.name.clone() }).await.unwrap();
    }
    // The wrong master key makes an error of it.
    keys.stop().await.unwrap();
    let other = world.folder.path().join("other.key");
    seal::MasterKey::load_or_create(&other).unwrap();
    let error = crate::world::Process::start(world.nats.url(), keys::Config::new(&other)).fails().await;
    let public = world.issued(&alice).await.wireguard.public_key;

    let logged = log.0.lock().unwrap().clone();
    let said = world.nats.log();
    world.nats.stop();
    let mut places = files(&world.nats.store());
    assert!(places.iter().any(|(_, bytes)| contains(bytes, public.as_bytes())), "streams can be searched");
    assert!(contains(&logged, b"ready"), "the log can be searched");
    places.push(("the log".to_owned(), logged));
    places.push(("the log of nats-server".to_owned(), said.into_bytes()));
    places.push(("an error".to_owned(), format!("{error:?}").into_bytes()));
    for (place, bytes) in places {
        for (name, secret) in &secrets {
            assert!(!contains(&bytes, secret), "{name} is in {place}");
        }
    }
}
