//! Any configuration is one that Xray reads.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use contract::{Code, Protocol};
use ipnet::IpNet;
use proptest::prelude::*;
use runtime::engine::{
    Engine as _,
    xray::{IMAGE, Place, Xray},
};
use testkit::programs::program;

use super::server::{PROTOCOLS, desired, user};

fn engine(run_dir: &Path, protocol: Protocol, port: u16) -> Xray {
    let place = Place {
        run_dir: run_dir.to_owned(),
        inside: run_dir.to_owned(),
        image: IMAGE.parse().unwrap(),
        program: program("xray"),
        env: Vec::new(),
    };
    Xray::new(place, protocol, u64::from(port).try_into().unwrap())
}

#[derive(Debug, Clone)]
struct Case {
    protocol: Protocol,
    port: u16,
    dest: String,
    server_names: Vec<String>,
    allowed: Vec<IpNet>,
    own: Vec<std::net::IpAddr>,
    names: Vec<String>,
}

fn cases() -> impl Strategy<Value = Case> {
    let host = prop_oneof![
        "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,10}){1,3}",
        "192\\.0\\.2\\.[1-9]",
        "\\[2001:db8::[1-9]\\]"
    ];
    let net = prop_oneof![
        (any::<u32>(), 0_u8..=32)
            .prop_map(|(bits, len)| IpNet::new(std::net::Ipv4Addr::from(bits).into(), len)),
        (any::<u128>(), 0_u8..=128)
            .prop_map(|(bits, len)| IpNet::new(std::net::Ipv6Addr::from(bits).into(), len)),
        Just("127.0.0.0/8".parse::<IpNet>().map_err(|_| ipnet::PrefixLenError)),
    ];
    let net = net.prop_map(|net| net.unwrap());
    let names = proptest::collection::btree_set("[a-z0-9][a-z0-9_-]{0,63}", 0..5);
    (
        proptest::sample::select(PROTOCOLS.to_vec()),
        1_u16..,
        (host, 1_u16..).prop_map(|(host, port)| format!("{host}:{port}")),
        proptest::collection::vec("[a-z]{1,20}\\.[a-z]{2,5}", 1..4),
        proptest::collection::vec(net, 0..4),
        proptest::collection::vec(any::<std::net::IpAddr>(), 0..4),
        names,
    )
        .prop_map(|(protocol, port, dest, server_names, allowed, own, names)| Case {
            protocol,
            port,
            dest,
            server_names,
            allowed,
            own,
            names: names.into_iter().collect(),
        })
}

proptest! {
    // Each starts a program: 60 ms.
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn xray_reads_what_is_written_for_any_server_and_users(case in cases()) {
        let home = tempfile::tempdir().unwrap();
        let dest = (case.protocol == Protocol::VlessReality).then_some(case.dest.as_str());
        let mut server = desired(case.protocol, case.port, dest, &[]);
        server.server.allow_private = case.allowed.clone();
        server.own_addresses = case.own.clone();
        if let Some(reality) = &mut server.server.reality {
            reality.server_names = case.server_names.clone();
        }
        let users: Vec<_> = case.names.iter().map(|name| user(case.protocol, name)).collect();
        // For a child process, `prepare` asks the program.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let prepared = runtime.block_on(async {
            engine(&home.path().join("run"), case.protocol, case.port).prepare(&server, &users).await
        });
        prop_assert!(prepared.is_ok(), "{:?}", prepared);
    }
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone_and_what_an_engine_left_in_the_way_is_harmless() {
    let protocol = Protocol::Shadowsocks2022;
    let home = tempfile::tempdir().unwrap();
    let (run_dir, outside) = (home.path().join("run"), home.path().join("outside"));
    std::fs::create_dir(&run_dir).unwrap();
    std::fs::write(&outside, "not yours").unwrap();
    for name in ["config.json", "config.new", "access.log", "sessions", "api.sock"] {
        std::os::unix::fs::symlink(&outside, run_dir.join(name)).unwrap();
    }
    let server = desired(protocol, 1, None, &[]);
    let engine = engine(&run_dir, protocol, 1);
    engine.prepare(&server, &[user(protocol, "alice")]).await.unwrap();
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "not yours");
    let mode = std::fs::symlink_metadata(run_dir.join("config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let left: Vec<_> = std::fs::read_dir(&run_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["config.json"]);
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_hold_no_secret() {
    let protocol = Protocol::VlessReality;
    let home = tempfile::tempdir().unwrap();
    let engine = engine(&home.path().join("run"), protocol, 1);
    let mut server = desired(protocol, 1, Some("site.example:443"), &[]);
    server.secret.push(1);
    let error = engine.prepare(&server, &[]).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_ENGINE_FAILED, "{error}");
    assert!(error.to_string().contains("privateKey"), "{error}");
    let key = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &*server.secret);
    assert!(!error.to_string().contains(&key), "{error}");

    let other = desired(Protocol::Shadowsocks2022, 1, None, &[]);
    let mixed_up = engine.prepare(&other, &[user(protocol, "alice")]).await.unwrap_err();
    assert_eq!(mixed_up.code, Code::INTERNAL, "{mixed_up}");

    let deadline = tokio::time::Instant::now() + Duration::from_millis(100);
    let away = engine.ready(deadline).await.unwrap_err();
    assert_eq!(away.code, Code::RUNTIME_ENGINE_FAILED, "{away}");
}
