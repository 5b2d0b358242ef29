//! A server in a network of its own, with an internet behind it:
//!
//! ```text
//! client ──cable── server ──cable── internet
//! 10.64.0.n        vpn…, 9.9.9.10   9.9.9.9 and whatever must not be reached
//! ```

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use contract::{
    Port, Protocol, Timestamp, WireguardAddress,
    fleet::{Resources, Server, ServerId},
    keys::ServerPublic,
    users::UserId,
};
use runtime::engine::{
    Converged, Engine as _, EngineServer, EngineUser, UserSecret,
    wireguard::{IMAGE, Settings, Wireguard, interface},
};
use tempfile::TempDir;
use testkit::{
    netns::{Cable, Namespace, Resident},
    ports,
    process::Process,
    programs::workspace,
    sites::Target,
    wireguard_client::WireguardClient,
};
use tokio::time::Instant;
use uuid::Uuid;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

pub(crate) const READY_WITHIN: Duration = Duration::from_secs(10);
pub(crate) const PAGE_WITHIN: Duration = Duration::from_secs(20);
/// What is not answered in this time is not answered at all.
pub(crate) const SILENT_FOR: Duration = Duration::from_secs(1);

pub(crate) const PUBLIC_V4: &str = "9.9.9.9";
pub(crate) const PUBLIC_V6: &str = "2620:fe::9";
/// The server's own public address.
pub(crate) const OWN: &str = "9.9.9.10";
pub(crate) const ALLOWED: &str = "192.168.77.0/24";
pub(crate) const ALLOWED_HOST: &str = "192.168.77.1";

/// All that the internet of these tests has, private or not.
const INTERNET: [&str; 9] = [
    PUBLIC_V4,
    PUBLIC_V6,
    ALLOWED_HOST,
    "192.168.78.1",
    "10.200.0.1",
    "172.31.255.1",
    "169.254.169.254",
    "fd99::1",
    "fd00:ec2::254",
];

/// What a test needs.
pub(crate) struct World {
    pub(crate) server: Namespace,
    pub(crate) internet: Namespace,
    pub(crate) target: Resident<Target>,
    /// Between the server and the internet.
    pub(crate) cable: Cable,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (server, internet) = (Namespace::new(), Namespace::new());
        let cable = server.connect(Some(&internet));
        for address in INTERNET {
            internet.ip(&format!("addr add {address} dev lo"));
        }
        server.ip(&format!("addr add {OWN} dev lo"));
        server.ip(&format!("addr add fd00:cab1::1/64 dev {} nodad", cable.near_interface));
        internet.ip(&format!("addr add fd00:cab1::2/64 dev {} nodad", cable.far_interface));
        server.ip(&format!("route add default via {}", cable.far));
        server.ip("-6 route add default via fd00:cab1::2");
        let target = internet.host(|| Target::start_on("::".parse().unwrap())).await;
        Self { server, internet, target, cable }
    }

    /// A page of the internet's.
    pub(crate) fn page(&self, host: &str, bytes: u64) -> String {
        page(host, self.target.address().port(), bytes)
    }
}

pub(crate) fn page(host: &str, port: u16, bytes: u64) -> String {
    let host: IpAddr = host.parse().unwrap();
    format!("http://{}/bytes/{bytes}", std::net::SocketAddr::from((host, port)))
}

/// A server with its adapter and its device.
pub(crate) struct Node {
    pub(crate) adapter: Wireguard,
    pub(crate) device: Process,
    pub(crate) server: EngineServer,
    pub(crate) run_dir: TempDir,
}

impl Node {
    /// One that runs in the world's server namespace, without users.
    pub(crate) async fn start(world: &World) -> Self {
        let run_dir = tempfile::Builder::new().prefix("vpn-test-wg-").tempdir().unwrap();
        let server = engine_server(ports::free());
        let adapter = adapter(run_dir.path(), &server);
        adapter.prepare(&server, &[]).await.unwrap();
        let device = device(world, &adapter);
        let mut node = Self { adapter, device, server, run_dir };
        node.ready().await;
        node
    }

    pub(crate) async fn ready(&mut self) {
        if let Err(error) = self.adapter.ready(Instant::now() + READY_WITHIN).await {
            self.device.must_run();
            panic!("{error}");
        }
        self.converge(&[]).await;
    }

    /// After SIGKILL or another end.
    pub(crate) async fn restart(&mut self, world: &World, users: &[&User]) {
        self.adapter.prepare(&self.server, &[]).await.unwrap();
        self.device = device(world, &self.adapter);
        self.ready().await;
        self.converge(users).await;
    }

    pub(crate) async fn converge(&self, users: &[&User]) -> Converged {
        self.adapter.converge(&engine_users(users), self.device.pid()).await.unwrap()
    }

    pub(crate) async fn add(&self, users: &[&User]) {
        self.adapter.add(&engine_users(users), self.device.pid()).await.unwrap();
    }

    pub(crate) async fn remove(&self, users: &[&User]) {
        let names: Vec<_> = engine_users(users).into_iter().map(|user| user.name).collect();
        self.adapter.remove(&names, self.device.pid()).await.unwrap();
    }

    /// The user's client, and the network that it is in.
    pub(crate) async fn client(&self, world: &World, user: &User) -> WireguardClient {
        WireguardClient::connect_to(&user.file(&self.server), &world.server).await
    }

    pub(crate) fn interface(&self) -> String {
        interface(&self.server.server.id)
    }
}

pub(crate) fn adapter(run_dir: &Path, server: &EngineServer) -> Wireguard {
    let settings = Settings {
        run_dir: run_dir.to_owned(),
        inside: run_dir.to_owned(),
        image: IMAGE.parse().unwrap(),
        program: vpnd(),
    };
    Wireguard::new(settings, server)
}

/// The program that the device is a part of. It depends on the crate that these tests belong to, so cargo cannot
/// build it for them.
pub(crate) fn vpnd() -> PathBuf {
    // Next to the tests, which are in `deps`: the same profile's.
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("vpnd");
    let build = "run `cargo build -p vpnd`, with `--release` for tests in release (`make test` does)";
    let built = fs::metadata(&program).and_then(|metadata| metadata.modified());
    let built = built.unwrap_or_else(|error| panic!("{}: {error}: {build}", program.display()));
    // One that was built before the last change would be another device than the one to be tested.
    let source = workspace().join("services/runtime/src/engine/wireguard");
    let changed = walk(&source).into_iter().max().expect("the device has sources");
    assert!(built >= changed, "{} is older than {}: {build}", program.display(), source.display());
    program
}

/// When each file in a folder was last changed.
fn walk(folder: &Path) -> Vec<std::time::SystemTime> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => walk(&path),
            false => vec![fs::metadata(&path).unwrap().modified().unwrap()],
        })
        .collect()
}

/// The device as the process backend would start it.
pub(crate) fn device(world: &World, adapter: &Wireguard) -> Process {
    let launch = adapter.launch();
    let mut command = world.server.command(&launch.program);
    command.args(&launch.args);
    Process::spawn("wireguard-device", &command)
}

pub(crate) fn engine_server(port: u16) -> EngineServer {
    let secret = Uuid::new_v4().into_bytes().repeat(2);
    let public = PublicKey::from(&StaticSecret::from(<[u8; 32]>::try_from(secret.as_slice()).unwrap()));
    let now = Timestamp::UNIX_EPOCH;
    let server = Server {
        name: "wg".parse().unwrap(),
        id: ServerId(Uuid::new_v4()),
        protocol: Protocol::Wireguard,
        port: Port::try_from(u64::from(port)).unwrap(),
        node: "here".parse().unwrap(),
        image: None,
        reality: None,
        resources: Resources::default(),
        allow_private: vec![ALLOWED.parse().unwrap(), "fd77::/64".parse().unwrap()],
        running: true,
        restarts: 0,
        created_at: now,
        updated_at: now,
    };
    EngineServer {
        server,
        public: ServerPublic::Wireguard { public_key: STANDARD.encode(public.as_bytes()) },
        secret: Zeroizing::new(secret),
        own_addresses: vec![OWN.parse().unwrap()],
    }
}

/// A user with keys that follow from the number.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) number: u32,
    pub(crate) generation: u8,
}

impl User {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, generation: 0 }
    }

    /// The same user after a rotation of keys.
    pub(crate) fn rotated(&self) -> Self {
        Self { generation: self.generation + 1, ..self.clone() }
    }

    pub(crate) fn address(&self) -> WireguardAddress {
        WireguardAddress::new(self.number).unwrap()
    }

    fn private_key(&self) -> StaticSecret {
        StaticSecret::from(self.bytes(1))
    }

    fn preshared_key(&self) -> [u8; 32] {
        self.bytes(2)
    }

    fn bytes(&self, purpose: u8) -> [u8; 32] {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&self.number.to_be_bytes());
        bytes[4] = self.generation;
        bytes[5] = purpose;
        bytes
    }

    pub(crate) fn engine_user(&self) -> EngineUser {
        EngineUser {
            id: UserId(Uuid::from_u128(self.number.into())),
            name: format!("user-{}", self.number).parse().unwrap(),
            secret: UserSecret::Wireguard {
                public_key: PublicKey::from(&self.private_key()).to_bytes(),
                preshared_key: Zeroizing::new(self.preshared_key()),
                address: self.address(),
            },
        }
    }

    /// What `vpn link` gives.
    pub(crate) fn file(&self, server: &EngineServer) -> String {
        let ServerPublic::Wireguard { public_key } = &server.public else { panic!("not a WireGuard server") };
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}/32, {}/128\nDNS = 9.9.9.9\nMTU = 1420\n\n\
             [Peer]\nPublicKey = {public_key}\nPresharedKey = {}\nEndpoint = 127.0.0.1:{}\n\
             AllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n",
            STANDARD.encode(self.private_key().to_bytes()),
            self.address().v4(),
            self.address().v6(),
            STANDARD.encode(self.preshared_key()),
            server.server.port,
        )
    }
}

pub(crate) fn engine_users(users: &[&User]) -> Vec<EngineUser> {
    users.iter().map(|user| user.engine_user()).collect()
}
