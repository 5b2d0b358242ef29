use std::{path::Path, process::Command};

use contract::{Code, runtime::ProbeDest};
use serde_json::{Value, json};
use testkit::{ports, wait::eventually};

use crate::world::{SOON, Vpn};

/// Everything is stopped also where a test fails.
struct Downed<'v>(&'v Vpn);

impl Drop for Downed<'_> {
    fn drop(&mut self) {
        let ran = self.0.run(["down"]);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.0.home().join(".local/share/vpn/vpnd.log"));
            // The harness shows it with the failed test.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("vpn down: {ran:?}\nvpnd said: {}", log.unwrap_or_default());
            }
        }
    }
}

fn house() -> Vpn {
    let vpnd = Path::new(env!("CARGO_BIN_EXE_vpn")).with_file_name("vpnd");
    assert!(vpnd.is_file(), "{} is missing: cargo build -p vpnd", vpnd.display());
    let url = format!("nats://127.0.0.1:{}", ports::free());
    let vpn = Vpn::new(&url);
    let run = vpn.home().join("run").display().to_string();
    // Engines run as somebody else where the tests run as root, and have to pass.
    let passable = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).unwrap();
    };
    passable(vpn.home());
    vpn.with("VPN_RUN_DIR", &run)
}

/// The first server at this port, without a daemon.
fn up(port: u16) -> String {
    format!("up --backend process --server-protocol shadowsocks-2022 --port {port} --address 127.0.0.1")
}

/// That of the `vpnd` which was started.
fn pid(vpn: &Vpn) -> String {
    let record = std::fs::read_to_string(vpn.home().join(".local/share/vpn/up.json")).unwrap();
    serde_json::from_str::<Value>(&record).unwrap()["process"]["pid"].to_string()
}

#[test]
fn from_nothing_to_a_link_and_back() {
    let vpn = &house();
    let _downed = Downed(vpn);
    let port = ports::free();
    let up = up(port);
    let first = vpn.json(&up);
    assert_eq!(first["server"]["instance"]["state"]["is"], "running", "{first}");
    assert_eq!(
        (&first["server"]["name"], &first["user"]["name"]),
        (&json!(format!("ss-{port}")), &json!("me"))
    );
    let link = first["link"]["link"].as_str().unwrap().to_owned();
    assert!(link.starts_with("ss://") && link.contains(&format!("@127.0.0.1:{port}")), "{link}");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "the server listens");

    let again = vpn.run(up.split(' '));
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains(&link) && again.out.contains("█▀"), "the same link, and its code: {again:?}");
    assert!(again.err.contains("next: vpn status"), "{again:?}");
    assert!(vpn.ok("up").contains(&link), "without options what is there is shown");

    vpn.ok("status");
    let doctor = vpn.run(["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    assert!(doctor.out.contains(&format!("server ss-{port} ")), "{doctor:?}");
    let node = first["node"]["node"].as_str().unwrap();
    assert!(vpn.ok(&format!("nodes inspect {node}")).contains("ok"));
    let since = |shown: Value| shown["instance"]["since"].as_str().unwrap().to_owned();
    let before = since(vpn.json(&format!("servers show ss-{port}")));
    assert_ne!(since(vpn.json(&format!("servers restart ss-{port} --wait"))), before);
    let stopped = vpn.json(&format!("servers stop ss-{port} --wait"));
    assert_ne!(stopped["instance"]["state"]["is"], "running");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(vpn.ok(&format!("servers start ss-{port} --wait")).contains("running   after "));

    assert_eq!(vpn.ok("down"), format!("stopped   ss-{port}, bus and services\n"));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the server is stopped");
    assert_eq!(vpn.refused("status", 69), "bus.unreachable");
    assert!(vpn.ok("down").starts_with("nothing that `vpn up` started from "));

    assert_eq!(vpn.json("up")["link"]["link"], link, "all of it is there again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vpnd_is_taken_over() {
    let vpn = &house();
    let _downed = Downed(vpn);
    let port = ports::free();
    let up = up(port);
    let first = vpn.json(&up);
    let pid = pid(vpn);
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let gone = async || vpn.refused("users list --timeout 1s", 69) == "bus.no_responders";
    eventually("its services are gone, its bus is not", SOON, gone).await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "the server goes on");

    let second = vpn.json(&up);
    assert_eq!(second["link"]["link"], first["link"]["link"]);
    let since = |up: &Value| up["server"]["instance"]["since"].clone();
    assert_eq!(since(&second), since(&first), "the server was adopted, not started anew");
    assert!(vpn.ok("down").starts_with("stopped   ss-"));
    assert_eq!(vpn.refused("status", 69), "bus.unreachable", "the bus that was left is stopped too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_at_a_stop_is_answered() {
    let vpn = &house();
    let _downed = Downed(vpn);
    let port = ports::free();
    let up = up(port);
    let node = vpn.json(&up)["node"]["node"].as_str().unwrap().parse().unwrap();
    let pid = pid(vpn);

    // A site that says nothing takes the agent 2.5 s.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dest = silent.local_addr().unwrap().to_string().parse().unwrap();
    let bus = bus::Bus::connect(&bus::Config::new(vpn.url(), "test")).await.unwrap();
    let request = ProbeDest { node, dest, server_name: "example.com".to_owned() };
    let asked = tokio::spawn(async move { bus.call_within(request, SOON).await });
    let taken_on = tokio::time::timeout(SOON, silent.accept()).await.expect("it is being worked on").unwrap();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(
        error.code,
        Code::FLEET_DEST_NOT_TLS13,
        "its own answer, not that of a bus that is gone: {error}"
    );
    drop(taken_on);
    // Its services are gone before its bus is.
    let gone = async || vpn.run(["status", "--timeout", "1s"]).code == Some(69);
    eventually("all of it has stopped then", SOON, gone).await;
    // Engines go on without their agent: `down` has to find one that ends them. The old one may be ending still.
    let again = async || vpn.run(up.split_whitespace()).code == Some(0);
    eventually("all of it runs again", SOON, again).await;
}

#[test]
fn the_log_of_the_bus_does_not_grow_for_ever() {
    let vpn = &house();
    let bus = vpn.home().join(".local/share/vpn/bus");
    std::fs::create_dir_all(&bus).unwrap();
    let log = bus.join("nats-server.log");
    std::fs::write(&log, vec![b'x'; 9 << 20]).unwrap();
    let _downed = Downed(vpn);
    let port = ports::free();
    vpn.ok(&up(port));
    let now = std::fs::metadata(&log).unwrap().len();
    assert!(now < 1 << 20, "{now} bytes");
    assert!(std::fs::read_to_string(&log).unwrap().contains("JetStream"), "it is what nats-server says");
}

#[test]
fn what_does_not_start_says_why() {
    let vpn = &house();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", taken.local_addr().unwrap());
    // It listens and never greets, so nobody is there as far as a bus goes, and its port is taken.
    let ran = vpn.run(["up", "--nats", &url, "--backend", "process", "--timeout", "300ms", "--wait", "10s"]);
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "cli.start_failed"), "{ran:?}");
    assert!(ran.err.contains("belongs to another program") && ran.err.contains("\n  log: "), "{ran:?}");
    assert_eq!(vpn.refused("up --nats nats://192.0.2.1:4222 --timeout 200ms", 69), "bus.unreachable");
    assert_eq!(vpn.refused("up --wait 0", 2), "cli.usage");
    let lock = std::fs::File::open(vpn.home().join(".local/share/vpn/up.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(vpn.refused("down", 1), "cli.start_failed", "two at once would undo each other");
}
