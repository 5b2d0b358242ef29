//! What is refused, with which words and how soon: by the programs that people type into.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use contract::{
    Code, Protocol,
    fleet::ListServers,
    users::{Create, CreateMany, List},
};
use flows::{House, house::Plan};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{World, named};

/// What is promised; it includes the start of the program that asks.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What was said, and how soon. The first of three that was soon enough: other programs run here too.
fn run(mut command: impl FnMut() -> Command) -> (String, Option<i32>, Duration) {
    let mut try_it = || {
        let asked = Instant::now();
        let output = command().output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.code(), asked.elapsed())
    };
    let mut last = try_it();
    for _ in 0..2 {
        if last.2 < ANSWERS_WITHIN {
            break;
        }
        last = try_it();
    }
    last
}

/// The value in what a program said: `nats` writes a line or two besides.
fn value(said: &str) -> Value {
    let (from, to) = (said.find('{').unwrap_or_default(), said.rfind('}').map_or(0, |at| at + 1));
    serde_json::from_str(said.get(from..to).unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The same of what `vpn` shows to people.
fn block(said: &str) -> Value {
    let part = |from: &str, to: &str| {
        let rest = said.split_once(from).unwrap_or_else(|| panic!("no {from:?}: {said}")).1;
        rest.split_once(to).unwrap_or((rest, "")).0.to_owned()
    };
    json!({ "code": part("error[", "]"), "message": part("]: ", "\nhelp: "), "hint": part("\nhelp: ", "\n") })
}

fn check(what: &str, said: &str, took: Duration, code: &str) {
    let shown: String = what.chars().take(120).collect();
    let error = value(said);
    assert_eq!(error["code"], code, "{shown}: {said}");
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{shown}: {said}");
    // What is shown of a bad value does no harm to a terminal, and is short.
    assert!(error["message"].as_str().unwrap().len() < 600, "{shown}: {said}");
    assert!(!said.contains(['\0', '\u{202e}', '\u{1b}']), "{shown}: {said:?}");
    assert!(took < ANSWERS_WITHIN, "{shown} took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_type_wrongly_gets_its_code_and_hint() {
    let world = World::on("process").await;
    world.serve("ss", Protocol::Shadowsocks2022).await;
    world.create("alice").await;
    let port = world.ask(ListServers::default()).await.servers[0].port.to_string();
    let long = "a".repeat(10_000);
    let many = "x".repeat(600);

    let user = |name: &str| format!(r#"{{"name":"{name}"}}"#);
    let with = |field: &str| format!(r#"{{"name":"bob",{field}}}"#);
    let server = |name: &str, port: &str| {
        format!(r#"{{"name":"{name}","protocol":"shadowsocks-2022","port":{port}}}"#)
    };
    let requests: Vec<(&str, String, &str)> = vec![
        ("users.create", "not json".into(), "request.not_json"),
        ("users.create", "{\"name\":\"bob\"".into(), "request.not_json"),
        ("users.create", "[\"bob\"]".into(), "request.invalid"),
        ("users.create", "{}".into(), "request.invalid"),
        ("users.create", with(r#""colour":"red""#), "request.invalid"),
        ("users.create", with(r#""name":"carol""#), "request.invalid"),
        ("users.create", user("../etc/passwd"), "users.name_invalid"),
        ("users.create", user("a\\u0000b"), "users.name_invalid"),
        ("users.create", user("a.b"), "users.name_invalid"),
        ("users.create", user("*"), "users.name_invalid"),
        ("users.create", user(">"), "users.name_invalid"),
        ("users.create", user("\u{202e}bob"), "users.name_invalid"),
        ("users.create", user("\\u001b[31mred"), "users.name_invalid"),
        ("users.create", user(&long), "users.name_invalid"),
        ("users.create", user(""), "users.name_invalid"),
        ("users.create", user("Bob"), "users.name_invalid"),
        ("users.create", user("alice"), "users.name_taken"),
        ("users.create", with(r#""quota":-1"#), "users.quota_invalid"),
        ("users.create", with(r#""quota":0"#), "users.quota_invalid"),
        ("users.create", with(r#""quota":1.5"#), "users.quota_invalid"),
        ("users.create", with(r#""quota":9223372036854775808"#), "users.quota_invalid"),
        ("users.create", with(r#""quota":99999999999999999999999"#), "users.quota_invalid"),
        ("users.create", with(r#""quota":"many""#), "users.quota_invalid"),
        ("users.create", with(r#""expires_at":"2001-01-01T00:00:00Z""#), "users.expiry_past"),
        ("users.create", with(r#""expires_at":"tomorrow""#), "request.invalid"),
        ("users.create", with(r#""expires_at":"99999-01-01T00:00:00Z""#), "request.invalid"),
        ("users.create", with(r#""tags":["a b"]"#), "users.tag_invalid"),
        ("users.create", with(&format!(r#""note":"{many}""#)), "users.note_invalid"),
        ("users.create", with("\"note\":\"a\u{202e}b\""), "users.note_invalid"),
        ("users.create_many", r#"{"users":[]}"#.into(), "users.batch_invalid"),
        ("users.create_many", r#"{"users":[{"name":"b"},{"name":"b"}]}"#.into(), "users.batch_invalid"),
        ("users.create_many", r#"{"users":[{"name":"b"},{"name":"alice"}]}"#.into(), "users.name_taken"),
        ("users.create_many", r#"{"users":[{"name":"b"},{"name":"*"}]}"#.into(), "users.name_invalid"),
        ("users.list", r#"{"limit":-1}"#.into(), "request.invalid"),
        ("users.get", user("nobody"), "users.not_found"),
        ("users.update", r#"{"name":"alice","quota":-5}"#.into(), "users.quota_invalid"),
        ("users.delete", user("nobody"), "users.not_found"),
        ("keys.link", r#"{"user":"nobody"}"#.into(), "users.not_found"),
        ("keys.link", r#"{"user":"alice","server":"nowhere"}"#.into(), "fleet.server_not_found"),
        ("keys.rotate", r#"{"user":"nobody"}"#.into(), "keys.not_issued"),
        ("fleet.create_server", server("../x", "1"), "fleet.server_name_invalid"),
        ("fleet.create_server", server("s", "-1"), "fleet.port_invalid"),
        ("fleet.create_server", server("s", "65536"), "fleet.port_invalid"),
        ("fleet.create_server", server("ss", "1234"), "fleet.server_exists"),
        ("fleet.create_server", server("s", &port), "fleet.port_taken"),
        ("fleet.delete_server", user("nowhere"), "fleet.server_not_found"),
    ];
    let mut slowest = Duration::ZERO;
    for (verb, body, code) in &requests {
        let (subject, what) = (format!("vpn.{verb}"), format!("nats request vpn.{verb} {body}"));
        let (said, _, took) = run(|| world.house.nats(["request", "--raw", &subject, body]));
        check(&what, &said, took, code);
        slowest = slowest.max(took);
    }

    let vpn: Vec<(Vec<&str>, &str)> = vec![
        (vec!["users", "create", "../x"], "users.name_invalid"),
        (vec!["users", "create", "*"], "users.name_invalid"),
        (vec!["users", "create", "\u{202e}bob"], "users.name_invalid"),
        (vec!["users", "create", "\u{1b}[31mred"], "users.name_invalid"),
        (vec!["users", "create", &long], "users.name_invalid"),
        (vec!["users", "create", "alice"], "users.name_taken"),
        (vec!["users", "create", "bob", "--quota=-1"], "users.quota_invalid"),
        (vec!["users", "create", "bob", "--quota", "9EiB"], "users.quota_invalid"),
        (vec!["users", "create", "bob", "--expires", "2001-01-01"], "users.expiry_past"),
        (vec!["users", "create", "bob", "--tag", "a b"], "users.tag_invalid"),
        (vec!["users", "create", "bob", "--note", &many], "users.note_invalid"),
        (vec!["users", "create", "bob", "--colour", "red"], "cli.usage"),
        (vec!["users", "show", "nobody"], "users.not_found"),
        (vec!["users", "delete", "nobody"], "users.not_found"),
        (vec!["link", "nobody"], "users.not_found"),
        (vec!["link", "alice", "nowhere"], "fleet.server_not_found"),
        (vec!["servers", "create", "s", "--protocol", "pptp"], "fleet.setting_invalid"),
        (vec!["servers", "create", "s", "--protocol", "wireguard", "--port", "0"], "fleet.port_invalid"),
        (vec!["servers", "create", "s", "--protocol", "wireguard", "--node", "no"], "fleet.node_not_found"),
        (vec!["servers", "create", "s", "--protocol", "vless-reality"], "fleet.setting_invalid"),
        (
            vec!["servers", "create", "s", "--protocol", "shadowsocks-2022", "--port", &port],
            "fleet.port_taken",
        ),
        (vec!["nodes", "show", "nowhere"], "fleet.node_not_found"),
        (vec!["explain", "no.such_code"], "cli.unknown_code"),
    ];
    for (args, code) in &vpn {
        let (said, exit, took) = run(|| world.house.vpn(args.iter().copied()));
        check(&format!("vpn {}", args.join(" ")), &block(&said).to_string(), took, code);
        assert!(exit.is_some_and(|exit| exit != 0), "vpn {args:?} ends with {exit:?}");
        slowest = slowest.max(took);
    }
    println!("{} refusals, the slowest after {slowest:?}", requests.len() + vpn.len());

    // Of all that, nothing came to be.
    let users = world.ask(List::default()).await.users;
    assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["alice"]);
    assert_eq!(users[0].quota, None);
    let servers = world.ask(ListServers::default()).await.servers;
    assert_eq!(servers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_megabytes_are_refused_and_nothing_is_half_done() {
    let house = House::start(Plan::on("process")).await;
    let bus = house.bus().await;
    let note = Some("n".repeat(400).parse().unwrap());
    let users: Vec<Create> = (0..5_000)
        .map(|number| Create { note: Option::clone(&note), ..named(&format!("u{number}")) })
        .collect();
    let request = CreateMany { users, batch: None };
    let text = serde_json::to_string(&request).unwrap();
    assert!(text.len() > 2_000_000, "{}", text.len());

    let asked = Instant::now();
    let error = bus.call(request).await.unwrap_err();
    assert_eq!(error.code, Code::REQUEST_TOO_LARGE, "{error}");
    assert!(asked.elapsed() < ANSWERS_WITHIN, "{:?}", asked.elapsed());

    // A client that does not look is told by the bus itself.
    let host = house.url().trim_start_matches("nats://").to_owned();
    let mut raw = TcpStream::connect(host).await.unwrap();
    let publish = format!("CONNECT {{}}\r\nPUB vpn.users.create_many {}\r\n", text.len());
    raw.write_all(publish.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(ANSWERS_WITHIN, raw.read_to_string(&mut answer)).await;
    assert!(answer.contains("Maximum Payload Violation"), "{answer}");
    assert_eq!(bus.call(List::default()).await.unwrap().total, 0);

    // `vpn` sends as much in parts.
    let lines: String = (0..5_000).map(|number| format!("{{\"name\":\"u{number}\"}}\n")).collect();
    let file = house.home().join("users.jsonl");
    std::fs::write(&file, lines).unwrap();
    let imported = flows::programs::said(&mut house.vpn(["users", "import", file.to_str().unwrap()]));
    imported.unwrap();
    assert_eq!(bus.call(List::default()).await.unwrap().total, 5_000);
}
