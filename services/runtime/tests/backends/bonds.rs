//! What binds instances, looked at from outside: `process` and `docker`.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use runtime::backend::{CONTAINER_UID, ContainerState, Rights};
use testkit::wait::eventually;

use crate::site::{SOON, Site, does, tcp};

/// Runs each on the backends that bind anything.
macro_rules! bonds {
    ($($bond:ident)+) => {
        mod process { $(#[tokio::test] async fn $bond() { super::$bond(super::Site::process().await).await; })+ }
        mod docker { $(#[tokio::test] async fn $bond() { super::$bond(super::Site::docker().await).await; })+ }
    };
}

bonds! {
    nothing_is_allowed
    a_network_may_be_set_up_and_nothing_else
    a_low_port_needs_no_root
    a_network_on_a_low_port_is_no_more_than_that
    memory_is_limited
    processes_are_limited
    no_memory_ends_in_a_file
    the_run_directory_belongs_to_the_instance
    a_stubborn_one_is_killed
    the_environment_is_the_spec_s_alone
}

const NO_CAPABILITY: &str = "0000000000000000";
const NET_ADMIN: &str = "0000000000001000";
const NET_BIND_SERVICE: &str = "0000000000000400";

fn root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// `/proc/PID/status`.
fn status(pid: u32) -> HashMap<String, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn assert_capabilities(status: &HashMap<String, String>, expected: &str) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = status[set].as_str();
        assert!(value == expected || value == NO_CAPABILITY, "{set} is {value}, more than {expected}");
    }
    assert_eq!(status["CapEff"], expected);
    assert_eq!(status["NoNewPrivs"], "1");
}

async fn nothing_is_allowed(site: Site) {
    assert!(root(), "these tests look at what only root can set: run them as root");
    let pid = site.up(&site.spec("s1")).await;
    let status = status(pid);
    assert_capabilities(&status, NO_CAPABILITY);
    let id = CONTAINER_UID.to_string();
    assert_eq!(status["Uid"].split_whitespace().collect::<Vec<_>>(), [&id; 4]);
    assert_eq!(status["Gid"].split_whitespace().collect::<Vec<_>>(), [&id; 4]);
    assert_eq!(status["Groups"].replace(&id, "").trim(), "");
    if site.backend.name() == "docker" {
        assert_eq!(status["Seccomp"], "2");
        let written = fs::write(format!("/proc/{pid}/root/etc/x"), "");
        assert!(written.is_err(), "the root file system can be written to");
    }
}

async fn a_network_may_be_set_up_and_nothing_else(site: Site) {
    let mut spec = site.spec("s1");
    spec.rights = Rights::Network;
    let pid = site.up(&spec).await;
    let status = status(pid);
    assert_capabilities(&status, NET_ADMIN);
    assert!(status["Uid"].starts_with("0\t0"), "{}", status["Uid"]);
    let root = format!("/proc/{pid}/root");
    assert!(Path::new(&root).join("dev/net/tun").exists());
    if site.backend.name() == "docker" {
        let of_its_network = |path: &str| {
            let pid = pid.to_string();
            crate::site::output("nsenter", &["-t", &pid, "-n", "cat", &format!("/proc/sys/net/{path}")])
        };
        assert_eq!(of_its_network("ipv4/ip_forward").trim(), "1");
        if Path::new("/proc/sys/net/ipv6").exists() {
            assert_eq!(of_its_network("ipv6/conf/all/forwarding").trim(), "1");
            assert_eq!(of_its_network("ipv6/conf/all/disable_ipv6").trim(), "0");
        }
    }
}

async fn a_low_port_needs_no_root(site: Site) {
    // One that is free here, from below 1024.
    let port = (600..1024).find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap();
    let mut spec = site
        .spec_of("s1", &format!("echo page >$0/index; : >$0/up; exec /bin/busybox httpd -f -p {port} -h $0"));
    spec.ports = vec![tcp(port)];
    let pid = site.up(&spec).await;
    let body = eventually("it answers on its port", SOON, async || {
        let body = crate::site::output("curl", &["-s", "-m", "2", &format!("http://127.0.0.1:{port}/index")]);
        (body == "page\n").then_some(body)
    });
    assert_eq!(body.await, "page\n");
    let status = status(pid);
    assert!(status["Uid"].starts_with(&CONTAINER_UID.to_string()));
    let expected = if site.backend.name() == "docker" { NO_CAPABILITY } else { NET_BIND_SERVICE };
    assert_capabilities(&status, expected);
}

async fn a_network_on_a_low_port_is_no_more_than_that(site: Site) {
    let mut spec = site.spec("s1");
    spec.rights = Rights::Network;
    let port = (600..1024).rev().find(|port| std::net::UdpSocket::bind(("0.0.0.0", *port)).is_ok()).unwrap();
    spec.ports = vec![(tcp(port).0, contract::value::Transport::Udp)];
    let status = status(site.up(&spec).await);
    // In a container every port is open to all.
    assert_capabilities(
        &status,
        if site.backend.name() == "docker" { NET_ADMIN } else { "0000000000001400" },
    );
}

async fn memory_is_limited(site: Site) {
    // dd takes a buffer of a block's size, and fills it.
    let script = "echo here; exec /bin/busybox dd if=/dev/zero of=/dev/null bs=128M count=4";
    let spec = site.spec_of("s1", script);
    site.backend.create(&spec).await.unwrap();
    site.backend.start(&spec).await.unwrap();
    eventually("it is killed", SOON, async || {
        site.state(&spec.server).await == Some(ContainerState::Exited { code: 137 })
    })
    .await;
}

async fn processes_are_limited(site: Site) {
    let script = "i=0; while [ $i -lt 100 ]; do i=$((i + 1)); /bin/busybox sleep 60 & done; echo all of them";
    let mut spec = site.spec_of("s1", script);
    spec.pids = 16;
    site.backend.create(&spec).await.unwrap();
    site.backend.start(&spec).await.unwrap();
    eventually("it is refused more", SOON, async || {
        let words = site.backend.last_words(&spec.server).await.unwrap();
        words.contains("can't fork") && !words.contains("all of them")
    })
    .await;
}

async fn no_memory_ends_in_a_file(site: Site) {
    let pid = site.up(&site.spec("s1")).await;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

async fn the_run_directory_belongs_to_the_instance(site: Site) {
    let spec = site.spec_of(
        "s1",
        "cat() { while read -r line; do echo \"$line\"; done <$1; }; trap 'exit 0' TERM; cat $0/config; echo made >$0/socket; \
         while :; do /bin/busybox sleep 0.05 & wait $!; done",
    );
    site.backend.create(&spec).await.unwrap();
    // The agent writes as itself, for its own eyes, before each start.
    for round in 0..2 {
        let config = spec.run_dir.join("config");
        fs::write(&config, format!("round {round}\n")).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&config, private).unwrap();
        std::os::unix::fs::chown(&config, Some(0), Some(0)).unwrap();
        site.backend.start(&spec).await.unwrap();
        eventually("it reads what the agent wrote", SOON, async || {
            site.backend.last_words(&spec.server).await.unwrap().contains(&format!("round {round}"))
        })
        .await;
        eventually("the agent reads what it wrote", SOON, async || {
            fs::read_to_string(spec.run_dir.join("socket")).is_ok_and(|text| text == "made\n")
        })
        .await;
        site.backend.stop(&spec.server, Duration::from_secs(10)).await.unwrap();
    }
    let directory = fs::metadata(&spec.run_dir).unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o777), (CONTAINER_UID, 0o700));
}

async fn a_stubborn_one_is_killed(site: Site) {
    let spec = site.spec_of("s1", does::RESIST);
    site.up(&spec).await;
    let started = std::time::Instant::now();
    site.backend.stop(&spec.server, Duration::from_secs(1)).await.unwrap();
    let took = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(site.state(&spec.server).await, Some(ContainerState::Exited { code: 137 }));
}

async fn the_environment_is_the_spec_s_alone(site: Site) {
    let spec = site.spec_of("s1", "export -p; echo end");
    site.backend.create(&spec).await.unwrap();
    site.backend.start(&spec).await.unwrap();
    let words = eventually("it says all", SOON, async || {
        let words = site.backend.last_words(&spec.server).await.unwrap();
        words.ends_with("end").then_some(words)
    });
    let words = words.await;
    assert!(words.contains("MARK='a mark'"), "{words}");
    assert!(!words.contains("CARGO"), "the agent's own: {words}");
}
