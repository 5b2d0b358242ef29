//! What must be nowhere in the open: in no log, span, error, process list, message, store or file that others can read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use bus::Bus;
use contract::{
    Protocol,
    fleet::ListServers,
    keys::{Credentials, Rotate, Sealed, ServerKeys},
    users::{Delete, Resume, Suspend, User},
};
use flows::{house::Plan, programs::said};
use futures::StreamExt as _;
use seal::MasterKey;
use testkit::{
    otlp::Collector, wait::eventually, wireguard_client::WireguardClient, xray_client::XrayClient,
};
use tokio::task::JoinHandle;

use crate::world::{SOON, World, name};

/// Shorter than any form of any secret.
const HEAD: usize = 8;

/// What must not be found, by the first bytes of each way to write it down.
#[derive(Default)]
struct Secrets {
    forms: HashMap<[u8; HEAD], BTreeMap<Vec<u8>, String>>,
}

impl Secrets {
    fn text(&mut self, name: &str, text: &str) {
        let head = text.as_bytes()[..HEAD].try_into().unwrap();
        self.forms.entry(head).or_default().insert(text.as_bytes().to_vec(), name.to_owned());
    }

    /// All the ways in which bytes are written down.
    fn bytes(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= 16, "{name} is no secret");
        let head = secret[..HEAD].try_into().unwrap();
        self.forms.entry(head).or_default().insert(secret.to_vec(), name.to_owned());
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [
            hex.to_uppercase(),
            hex,
            STANDARD_NO_PAD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
            // In a link's user information.
            STANDARD_NO_PAD.encode(secret).replace('+', "%2B").replace('/', "%2F"),
            format!("{secret:?}").trim_matches(['[', ']']).to_owned(),
        ] {
            self.text(name, &text);
        }
        if let Ok(uuid) = uuid::Uuid::from_slice(secret) {
            self.text(name, &uuid.to_string());
            self.text(name, &uuid.to_string().to_uppercase());
        }
    }

    /// Whose secrets are in there.
    fn found(&self, place: &[u8]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        for (at, head) in place.windows(HEAD).enumerate() {
            let Some(forms) = self.forms.get(head) else { continue };
            let rest = &place[at..];
            found.extend(
                forms.iter().filter(|(form, _)| rest.starts_with(form)).map(|(_, name)| name.as_str()),
            );
        }
        found
    }

    fn nowhere_in(&self, place: &str, bytes: &[u8]) {
        let found = self.found(bytes);
        assert!(found.is_empty(), "in {place}: {found:?}");
    }
}

/// Everything that is said on the bus.
struct Overheard {
    messages: Arc<Mutex<Vec<Message>>>,
    listening: JoinHandle<()>,
}

struct Message {
    subject: String,
    reply: Option<String>,
    bytes: Vec<u8>,
}

impl Overheard {
    async fn on(url: &str) -> Self {
        let client =
            async_nats::ConnectOptions::new().subscription_capacity(1 << 20).connect(url).await.unwrap();
        let mut heard = client.subscribe(">").await.unwrap();
        client.flush().await.unwrap();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = messages.clone();
        let listening = tokio::spawn(async move {
            while let Some(message) = heard.next().await {
                let mut bytes = format!("{:?}\n", message.headers).into_bytes();
                bytes.extend(&message.payload);
                let reply = message.reply.map(|reply| reply.to_string());
                kept.lock().unwrap().push(Message { subject: message.subject.to_string(), reply, bytes });
            }
        });
        Self { messages, listening }
    }

    /// What was heard; the replies to requests for links, the one place where a link may be, are counted.
    fn check(self, secrets: &Secrets) {
        self.listening.abort();
        let messages = self.messages.lock().unwrap();
        let links: HashSet<&str> = messages
            .iter()
            .filter(|message| message.subject == "vpn.keys.link")
            .filter_map(|message| message.reply.as_deref())
            .collect();
        let mut replies = 0;
        for message in messages.iter() {
            if links.contains(message.subject.as_str()) {
                replies += usize::from(!secrets.found(&message.bytes).is_empty());
            } else {
                secrets.nowhere_in(&format!("a message on {}", message.subject), &message.bytes);
            }
        }
        println!("{} messages on the bus, {replies} of them replies with links", messages.len());
        assert!(replies > 0 && messages.len() > 100, "the bus can be overheard");
    }
}

/// What `ps` could show of any process while the test runs.
struct Processes {
    seen: Arc<Mutex<HashSet<Vec<u8>>>>,
    enough: Arc<AtomicBool>,
    watching: thread::JoinHandle<()>,
}

impl Processes {
    fn watch() -> Self {
        let (seen, enough) = (Arc::<Mutex<HashSet<Vec<u8>>>>::default(), Arc::new(AtomicBool::new(false)));
        let (kept, ended) = (seen.clone(), enough.clone());
        let watching = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    let part = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
                    kept.lock().unwrap().extend([part("cmdline"), part("environ"), part("comm")]);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { seen, enough, watching }
    }

    fn check(self, secrets: &Secrets) {
        self.enough.store(true, Ordering::Relaxed);
        self.watching.join().unwrap();
        let seen = self.seen.lock().unwrap();
        assert!(seen.iter().any(|line| line.windows(5).any(|part| part == b"xray\0")), "engines can be seen");
        for line in seen.iter() {
            secrets.nowhere_in(&format!("ps: {}", String::from_utf8_lossy(line)), line);
        }
        println!("{} lines of ps", seen.len());
    }
}

fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// What the user's credentials open to now.
async fn credentials(bus: &Bus, master: &MasterKey, user: &User, secrets: &mut Secrets) {
    let bucket = bus.own::<Credentials>().await.unwrap();
    let held = eventually("credentials", SOON, async || {
        let entry = bucket.get(user.name.as_str()).await.ok()?;
        entry.and_then(|entry| entry.value).filter(|held| held.user_id == user.id)
    })
    .await;
    let bound_to = |protocol| Sealed::of_user(held.user_id, held.generation, protocol);
    for (protocol, sealed) in [
        (Protocol::VlessReality, &held.vless_reality),
        (Protocol::Shadowsocks2022, &held.shadowsocks_2022),
        (Protocol::Wireguard, &held.wireguard.preshared_key),
    ] {
        let opened = master.delivery(protocol).open(sealed, &bound_to(protocol)).unwrap();
        secrets.bytes(&format!("{protocol} of {}", user.name), &opened);
    }
    let alone = Sealed::of_user_alone(held.user_id, held.generation);
    let opened = master.private().open(&held.wireguard.private_key, &alone).unwrap();
    secrets.bytes(&format!("WireGuard key of {}", user.name), &opened);
}

async fn kept(backend: &str) {
    let (collector, processes) = (Collector::start().await, Processes::watch());
    let plan = Plan { otlp: Some(collector.endpoint()), log: "debug".to_owned(), ..Plan::on(backend) };
    let mut world = World::with(plan).await;
    let overheard = Overheard::on(&world.house.url()).await;
    let master = MasterKey::load(&world.house.data().join("master.key")).unwrap();
    let (mut secrets, mut shown) = (Secrets::default(), Vec::new());
    for file in ["master.key", "runtime/node.key"] {
        let path = world.house.data().join(file);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o077, 0, "{file} is for its owner alone");
        let text = fs::read_to_string(&path).unwrap().trim().to_owned();
        secrets.bytes(file, &STANDARD.decode(&text).unwrap());
        secrets.text(file, &text);
    }
    secrets.bytes("the key that seals private keys", master.private().as_bytes());

    for protocol in Protocol::ALL {
        world.serve(protocol.as_str(), protocol).await;
        let key = master.delivery(protocol);
        secrets.bytes(&format!("delivery key of {protocol}"), key.as_bytes());
    }
    let server_keys = world.bus.own::<ServerKeys>().await.unwrap();
    for server in world.ask(ListServers::default()).await.servers {
        let held = server_keys.get(server.name.as_str()).await.unwrap().unwrap().value.unwrap();
        let bound_to = Sealed::of_server(server.id, server.protocol);
        let opened = master.delivery(server.protocol).open(&held.private, &bound_to).unwrap();
        secrets.bytes(&format!("server key of {}", server.name), &opened);
    }

    // Everything is used: links, rotation, suspension, pages, restarts; and things go wrong.
    let (alice, bob) = (world.create("alice").await, world.create("bob").await);
    for round in 0..2 {
        for user in [&alice, &bob] {
            credentials(&world.bus, &master, user, &mut secrets).await;
            for protocol in Protocol::ALL {
                let link = world.link(user.name.as_str(), protocol.as_str()).await;
                if protocol != Protocol::Wireguard {
                    secrets.text(&format!("a link of {}", user.name), link.split('#').next().unwrap());
                }
                if user.name == alice.name {
                    match protocol {
                        Protocol::Wireguard => {
                            let client = WireguardClient::connect(&link).await;
                            eventually("a page", SOON, async || client.fetch(&world.page(), SOON).await)
                                .await;
                        }
                        _ => {
                            let client = XrayClient::start(&link).await.unwrap();
                            client.accepted(&world.page(), SOON).await.unwrap();
                        }
                    }
                }
            }
        }
        let file = world.house.home().join(format!("alice-{round}.conf"));
        let vpn = |args: &[&str]| {
            let output = world.house.vpn(args.iter().copied()).output().unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        vpn(&["link", "alice", "wireguard", "--conf", file.to_str().unwrap()]);
        assert!(file.exists());
        shown.push(vpn(&["link", "nobody"]));
        shown.push(vpn(&["link", "alice", "nowhere"]));
        shown.push(vpn(&["users", "create", "alice"]));
        shown.push(vpn(&["users", "show", "alice", "-o", "json"]));
        shown.push(vpn(&["servers", "show", "vless-reality", "-o", "json"]));
        shown.push(vpn(&["nodes", "inspect", world.house.node()]));
        shown.push(vpn(&["status"]));
        shown.push(vpn(&["doctor"]));
        world.ask(Suspend { name: bob.name.clone(), reason: None }).await;
        world.ask(Resume { name: bob.name.clone() }).await;
        world.ask(Rotate { user: name("alice") }).await;
    }
    // An engine that cannot start: a stranger holds its port.
    let stranger = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = stranger.local_addr().unwrap().port().to_string();
    let create = ["servers", "create", "unlucky", "--protocol", "shadowsocks-2022", "--port", &port];
    shown.push(said(&mut world.house.vpn(create)).unwrap());
    eventually("it fails", SOON, async || {
        said(&mut world.house.vpn(["servers", "show", "unlucky"])).is_ok_and(|shown| shown.contains("failed"))
    })
    .await;
    shown.push(said(&mut world.house.vpn(["servers", "show", "unlucky"])).unwrap());
    drop(stranger);
    let mut logs = world.house.vpnd().log();
    world.house.restart().await;
    world.ask(Delete { name: bob.name.clone() }).await;
    world.house.runs(&world.bus, "unlucky").await;
    let everything = collector
        .wait_for(
            |spans| spans.iter().any(|span| span.name.contains("vpn.users.delete")).then(|| spans.to_vec()),
            SOON,
        )
        .await;
    logs += &world.house.vpnd().log();

    overheard.check(&secrets);
    processes.check(&secrets);
    assert!(logs.contains("\"level\":\"DEBUG\""), "the log can be searched");
    secrets.nowhere_in("the log of vpnd", logs.as_bytes());
    secrets.nowhere_in("spans", format!("{everything:?}").as_bytes());
    for words in shown {
        secrets.nowhere_in("what a command shows", words.as_bytes());
    }
    // Files: where others can read, and where nobody should need to look twice.
    let mut all = Vec::new();
    files(world.house.home(), &mut all);
    let (mut private, mut open) = (0, 0);
    for path in &all {
        let (Ok(bytes), Ok(about)) = (fs::read(path), fs::metadata(path)) else { continue };
        let key = path.ends_with("master.key") || path.ends_with("node.key");
        if about.mode() & 0o077 != 0 || (path.starts_with(world.house.data()) && !key) {
            secrets.nowhere_in(&path.display().to_string(), &bytes);
            open += 1;
        } else {
            private += usize::from(!secrets.found(&bytes).is_empty());
        }
    }
    println!("{backend}: {open} files without secrets, {private} private ones with some");
    assert!(private >= 4, "of engines, both keys and the user's files: {private}");
    if backend == "docker" {
        for (id, _) in world.house.containers() {
            for about in ["inspect", "logs", "top"] {
                let output = world.house.docker([about, &id]).output().unwrap();
                secrets.nowhere_in(&format!("docker {about}"), &[output.stdout, output.stderr].concat());
            }
        }
    }
    // What nats-server wrote is in files that were looked at; it can be searched.
    let public = STANDARD.decode(public_key(&world.bus).await).unwrap();
    assert_eq!(public.len(), 32);
    let mut grep = Command::new("grep");
    grep.args(["-rlF", &STANDARD.encode(public)]).arg(world.house.data().join("bus"));
    assert!(!said(&mut grep).unwrap().is_empty(), "the store can be searched");
}

async fn public_key(bus: &Bus) -> String {
    let bucket = bus.own::<Credentials>().await.unwrap();
    bucket.get("alice").await.unwrap().unwrap().value.unwrap().wireguard.public_key
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_child_processes_is_in_the_open() {
    kept("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_containers_is_in_the_open() {
    kept("docker").await;
}
