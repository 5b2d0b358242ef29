//! A server of a test's own, and its users.

use std::{path::PathBuf, process::Command, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use contract::{Protocol, UserName, fleet, keys::ServerPublic, users::UserId};
use ipnet::IpNet;
use runtime::{
    engine::{
        Engine as _, EngineServer, EngineUser, UserSecret,
        xray::{IMAGE, Place, Xray},
    },
    sockets,
};
use tempfile::TempDir;
use testkit::{ports, process::Process, programs::program, sites::TlsSite, wait::eventually};
use tokio::time::Instant;
use uuid::Uuid;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// For whatever should take milliseconds, on a machine that does other things besides.
pub(crate) const SOON: Duration = Duration::from_secs(10);
pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::VlessReality, Protocol::Shadowsocks2022];
const SITE: &str = "site.example";

/// A running engine, with the site that REALITY hides behind.
pub(crate) struct Server {
    pub(crate) engine: Xray,
    pub(crate) desired: EngineServer,
    pub(crate) process: Process,
    place: Place,
    site: Option<TlsSite>,
    starts: u64,
    _home: TempDir,
}

impl Server {
    /// With these users, who may reach `127.0.0.1` and nothing else that is private.
    pub(crate) async fn start(protocol: Protocol, users: &[EngineUser]) -> Self {
        Self::start_allowing(protocol, users, &["127.0.0.1/32"]).await
    }

    pub(crate) async fn start_allowing(protocol: Protocol, users: &[EngineUser], allowed: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("vpn-test-xray-").tempdir().unwrap();
        let mut env = Vec::new();
        let site = if protocol == Protocol::VlessReality {
            let site = TlsSite::start(SITE).await;
            env.push(("SSL_CERT_FILE".to_owned(), site.ca_file().display().to_string()));
            Some(site)
        } else {
            None
        };
        let run_dir = home.path().join("run");
        let place = Place {
            run_dir: run_dir.clone(),
            inside: run_dir,
            image: IMAGE.parse().unwrap(),
            program: program("xray"),
            env,
        };
        let dest = site.as_ref().map(|site| site.address().to_string());
        let desired = desired(protocol, ports::free(), dest.as_deref(), allowed);
        let engine = Xray::new(place.clone(), protocol, desired.server.port);
        engine.prepare(&desired, users).await.unwrap();
        let process = launch(&engine);
        let server = Self { engine, desired, process, place, site, starts: 1, _home: home };
        server.ready().await;
        server.engine.converge(users, server.pid()).await.unwrap();
        server
    }

    async fn ready(&self) {
        if let Err(error) = self.engine.ready(Instant::now() + SOON).await {
            panic!("{error}\n{}", self.process.log());
        }
        // A REALITY engine makes its first clients wait otherwise.
        if let Some(site) = &self.site {
            site.taught(self.starts, SOON).await;
        }
    }

    /// The agent ends and is started anew; the engine goes on.
    pub(crate) fn restart_agent(&mut self) {
        self.engine = Xray::new(self.place.clone(), self.desired.server.protocol, self.desired.server.port);
    }

    /// The engine is killed, and started from the file that was saved last.
    pub(crate) async fn restart_engine(&mut self) {
        self.process.kill();
        // Started as it is, so without `prepare`: what that removes is removed here.
        std::fs::remove_file(self.file("api.sock")).unwrap();
        self.process = launch(&self.engine);
        self.starts += 1;
        self.ready().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.place.run_dir.join(name)
    }

    pub(crate) async fn add(&self, users: &[EngineUser]) {
        self.engine.add(users, self.pid()).await.unwrap();
    }

    pub(crate) async fn remove(&self, users: &[&EngineUser]) {
        let names: Vec<UserName> = users.iter().map(|user| user.name.clone()).collect();
        self.engine.remove(&names, self.pid()).await.unwrap();
    }

    /// How many connections clients have to the server, as it sees them.
    ///
    /// Xray as a Shadowsocks client keeps an application waiting on a connection that has ended, until the
    /// application says something; so whether a session has ended is asked on this side.
    pub(crate) fn connections(&self) -> usize {
        sockets::connections(self.pid(), self.desired.server.port.get()).unwrap().len()
    }

    pub(crate) async fn has_connections(&self, expected: usize) {
        eventually("the other connections have ended", SOON, async || {
            let found = self.connections();
            if found == expected { Ok(()) } else { Err(format!("there are {found}, not {expected}")) }
        })
        .await;
    }

    /// How many users Xray's own command line finds, in whatever inbound has them.
    pub(crate) fn users_in_engine(&self) -> usize {
        let inbounds = self.ask("lsi", &[]);
        let tags =
            inbounds["inbounds"].as_array().unwrap().iter().map(|inbound| inbound["tag"].as_str().unwrap());
        let tags: Vec<&str> = tags.filter(|tag| tag.starts_with("vpn-in")).collect();
        assert_eq!(tags.len(), 1, "{tags:?}");
        self.ask("inbounduser", &[&format!("--tag={}", tags[0])])["users"].as_array().unwrap().len()
    }

    /// What a user has received, as Xray counts it.
    pub(crate) fn bytes_to(&self, user: &EngineUser) -> u64 {
        let name = format!("user>>>{}>>>traffic>>>downlink", user.name);
        self.ask("stats", &[&format!("--name={name}")])["stat"]["value"].as_u64().unwrap()
    }

    fn ask(&self, what: &str, arguments: &[&str]) -> serde_json::Value {
        let server = format!("--server=unix://{}", self.file("api.sock").display());
        let mut command = Command::new(program("xray"));
        command.args(["api", what, &server]).args(arguments);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    }

    /// What a client imports.
    pub(crate) fn link(&self, user: &EngineUser) -> String {
        link(&self.desired, user)
    }
}

fn launch(engine: &Xray) -> Process {
    let launch = engine.launch();
    let mut command = Command::new(&launch.program);
    command.args(&launch.args).envs(launch.env);
    Process::spawn("xray", &command)
}

pub(crate) fn desired(protocol: Protocol, port: u16, dest: Option<&str>, allowed: &[&str]) -> EngineServer {
    let now = "2026-11-23T00:00:00Z".parse().unwrap();
    let server = fleet::Server {
        name: "s1".parse().unwrap(),
        id: fleet::ServerId(Uuid::new_v4()),
        protocol,
        port: u64::from(port).try_into().unwrap(),
        node: "n1".parse().unwrap(),
        image: None,
        reality: dest
            .map(|dest| fleet::Reality { dest: dest.parse().unwrap(), server_names: vec![SITE.to_owned()] }),
        resources: fleet::Resources::default(),
        allow_private: allowed.iter().map(|net| net.parse::<IpNet>().unwrap()).collect(),
        running: true,
        restarts: 0,
        created_at: now,
        updated_at: now,
    };
    let (public, secret) = match protocol {
        Protocol::VlessReality => {
            let secret = StaticSecret::from(random::<32>());
            let public_key = URL_SAFE_NO_PAD.encode(PublicKey::from(&secret));
            let short_id = format!("{:016x}", u64::from_be_bytes(random()));
            (ServerPublic::VlessReality { public_key, short_id }, secret.to_bytes().to_vec())
        }
        _ => (ServerPublic::Shadowsocks2022, random::<16>().to_vec()),
    };
    EngineServer { server, public, secret: Zeroizing::new(secret), own_addresses: Vec::new() }
}

pub(crate) fn user(protocol: Protocol, name: &str) -> EngineUser {
    let secret = Zeroizing::new(random::<16>());
    let secret = match protocol {
        Protocol::VlessReality => UserSecret::VlessReality(Zeroizing::new(
            *uuid::Builder::from_random_bytes(*secret).as_uuid().as_bytes(),
        )),
        _ => UserSecret::Shadowsocks2022(secret),
    };
    EngineUser { name: name.parse().unwrap(), id: UserId(Uuid::now_v7()), secret }
}

pub(crate) fn users(protocol: Protocol, count: usize) -> Vec<EngineUser> {
    (0..count).map(|number| user(protocol, &format!("user-{number}"))).collect()
}

pub(crate) fn link(server: &EngineServer, user: &EngineUser) -> String {
    let port = server.server.port;
    match (&server.public, &user.secret) {
        (ServerPublic::VlessReality { public_key, short_id }, UserSecret::VlessReality(id)) => format!(
            "vless://{}@127.0.0.1:{port}?type=tcp&encryption=none&security=reality&sni={SITE}&fp=chrome&pbk={public_key}&sid={short_id}&spx=%2F&flow=xtls-rprx-vision#{}",
            Uuid::from_bytes(**id),
            user.name
        ),
        (ServerPublic::Shadowsocks2022, UserSecret::Shadowsocks2022(key)) => {
            let escaped = |bytes: &[u8]| {
                let text = STANDARD.encode(bytes);
                text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
            };
            format!(
                "ss://2022-blake3-aes-128-gcm:{}%3A{}@127.0.0.1:{port}#{}",
                escaped(&server.secret),
                escaped(key.as_slice()),
                user.name
            )
        }
        _ => panic!("{} has no secret for that server", user.name),
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
