//! Raw payloads, as `nats request` sends them, and the codes that answer them.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::World;

struct Raw(async_nats::Client);

impl Raw {
    async fn ask(&self, verb: &str, body: impl Into<Vec<u8>>) -> (Value, Option<String>) {
        let body: Vec<u8> = body.into();
        let reply = self.0.request(format!("vpn.fleet.{verb}"), body.into()).await.unwrap();
        let code = reply.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
        (serde_json::from_slice(&reply.payload).unwrap(), code.map(ToString::to_string))
    }
}

#[tokio::test]
async fn bad_input_gets_its_code_and_changes_nothing() {
    let world = World::with_nodes(&["n1"]).await;
    let raw = Raw(async_nats::connect(world.nats.url()).await.unwrap());
    let long = "a".repeat(10_000);
    let ranges = vec!["\"10.0.0.0/8\""; 65].join(",");
    let names = vec!["\"a.example.org\""; 17].join(",");
    let wireguard = |rest: &str| format!(r#"{{"name":"s","protocol":"wireguard","port":1{rest}}}"#);
    let reality = |dest: &str, names: &str| {
        format!(
            r#"{{"name":"s","protocol":"vless-reality","port":1,"reality":{{"dest":"{dest}","server_names":[{names}]}}}}"#
        )
    };
    let named = |name: &str| format!(r#"{{"name":"{name}","protocol":"wireguard","port":1}}"#);
    let ported = |port: &str| format!(r#"{{"name":"s","protocol":"wireguard","port":{port}}}"#);
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("create_server", "not json".into(), "request.not_json", "400"),
        ("create_server", "[]".into(), "request.invalid", "400"),
        ("create_server", String::new(), "request.invalid", "400"),
        ("create_server", wireguard(r#","colour":"red""#), "request.invalid", "400"),
        ("create_server", wireguard(r#","port":2"#), "request.invalid", "400"),
        ("create_server", r#"{"name":"s","protocol":"pptp","port":1}"#.into(), "request.invalid", "400"),
        ("create_server", ported("-1"), "fleet.port_invalid", "400"),
        ("create_server", ported("0"), "fleet.port_invalid", "400"),
        ("create_server", ported("65536"), "fleet.port_invalid", "400"),
        ("create_server", ported("99999999999999999999"), "request.invalid", "400"),
        ("create_server", ported("1.5"), "request.invalid", "400"),
        ("create_server", ported("\"443\""), "request.invalid", "400"),
        ("create_server", named("../etc"), "fleet.server_name_invalid", "400"),
        ("create_server", named("a\\u0000b"), "fleet.server_name_invalid", "400"),
        ("create_server", named("*"), "fleet.server_name_invalid", "400"),
        ("create_server", named(">"), "fleet.server_name_invalid", "400"),
        ("create_server", named("\u{202e}evil"), "fleet.server_name_invalid", "400"),
        ("create_server", named(&long), "fleet.server_name_invalid", "400"),
        ("create_server", named(""), "fleet.server_name_invalid", "400"),
        ("create_server", wireguard(r#","node":"../n1""#), "fleet.node_name_invalid", "400"),
        ("create_server", wireguard(r#","node":"n9""#), "fleet.node_not_found", "404"),
        ("create_server", wireguard(r#","image":"a b""#), "fleet.image_invalid", "400"),
        ("create_server", wireguard(r#","allow_private":["10.0.0.0/99"]"#), "request.invalid", "400"),
        (
            "create_server",
            wireguard(&format!(r#","allow_private":[{ranges}]"#)),
            "fleet.setting_invalid",
            "400",
        ),
        (
            "create_server",
            wireguard(r#","resources":{"memory":1,"pids":64}"#),
            "fleet.setting_invalid",
            "400",
        ),
        (
            "create_server",
            wireguard(r#","resources":{"memory":"1GiB","pids":1}"#),
            "fleet.setting_invalid",
            "400",
        ),
        ("create_server", wireguard(r#","resources":{"memory":"1GiB","pids":-1}"#), "request.invalid", "400"),
        (
            "create_server",
            r#"{"name":"s","protocol":"vless-reality","port":1}"#.into(),
            "fleet.setting_invalid",
            "400",
        ),
        ("create_server", reality("www.example.org", "\"a.org\""), "fleet.address_invalid", "400"),
        ("create_server", reality("www.example.org:443", ""), "fleet.setting_invalid", "400"),
        ("create_server", reality("www.example.org:443", "\"a b\""), "fleet.setting_invalid", "400"),
        ("create_server", reality("www.example.org:443", &names), "fleet.setting_invalid", "400"),
        ("update_server", r#"{"name":"../etc"}"#.into(), "fleet.server_name_invalid", "400"),
        ("update_server", r#"{"name":"s","node":"n2"}"#.into(), "request.invalid", "400"),
        ("run_server", r#"{"name":"s","run":"explode"}"#.into(), "request.invalid", "400"),
        ("get_server", r#"{"name":"nowhere"}"#.into(), "fleet.server_not_found", "404"),
        ("delete_server", r#"{"name":"s"} trailing"#.into(), "request.not_json", "400"),
        ("list_servers", r#"{"node":"*"}"#.into(), "fleet.node_name_invalid", "400"),
        ("get_node", "{}".into(), "request.invalid", "400"),
        ("announce", r#"{"node":"n2"}"#.into(), "request.invalid", "400"),
    ];
    for (verb, body, code, status) in cases {
        let shown: String = body.chars().take(100).collect();
        let asked = Instant::now();
        let (error, header) = raw.ask(verb, body).await;
        assert_eq!(error["code"], code, "{verb} {shown}: {error}");
        assert_eq!(header.as_deref(), Some(status), "{verb} {shown}");
        assert!(!error["hint"].as_str().unwrap().is_empty(), "{verb} {shown}: {error}");
        assert!(error.to_string().len() < 2_000, "{verb} {shown}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{verb} {shown} took {:?}", asked.elapsed());
    }
    assert!(world.servers().await.is_empty());
    let (nodes, _) = raw.ask("list_nodes", "").await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1);

    // And the plain request works as a person would type it.
    let (reply, error) =
        raw.ask("create_server", r#"{"name":"s1","protocol":"wireguard","port":51820}"#).await;
    assert_eq!(error, None);
    assert_eq!(reply["server"]["node"], "n1");
    let update = r#"{"name":"s1","reality":{"dest":"www.example.org:443","server_names":["a.org"]}}"#;
    assert_eq!(raw.ask("update_server", update).await.0["code"], "fleet.setting_invalid");
}
