//! The worker against a scripted backend and an engine in memory. Time is paused: what takes long costs nothing.

use std::{path::Path, time::Duration};

use contract::{
    Timestamp, UserName,
    fleet::{AddressSource, PublicAddress, Resources, Server, ServerId},
    keys::ServerPublic,
    users::UserId,
};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::*;
use crate::{
    Config,
    backend::{
        detect::Choice,
        fake::{Call, Fake, Fault},
    },
    engine::{EngineServer, EngineUser, UserSecret, fake::Fake as FakeEngine},
    events::Events,
    mailbox::Roster,
    reports::Reports,
    usage::Meter,
};

/// Time is paused and jumps: this only ends a test that would never end.
const SOON: Duration = Duration::from_secs(300);

struct World {
    backend: Fake,
    engine: FakeEngine,
    ctx: Arc<Ctx>,
    mailbox: Arc<Mailbox>,
    roster: Roster,
    worker: JoinHandle<()>,
    _home: TempDir,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (backend, engine) = (Fake::new(), FakeEngine::default());
        let made = engine.clone();
        let ctx = Arc::new(Ctx {
            config: config(home.path()),
            backend: Arc::new(backend.clone()),
            because: "a test says so".to_owned(),
            address: PublicAddress { host: "127.0.0.1".to_owned(), source: AddressSource::Given },
            own_addresses: Vec::new(),
            reports: Reports::new("n1".parse().unwrap(), "fake"),
            meter: Meter::new("n1".parse().unwrap(), home.path()),
            events: Events::new("n1".parse().unwrap(), home.path()),
            engines: Box::new(move |_, _| Arc::new(made.clone())),
        });
        let mailbox = Arc::new(Mailbox::default());
        let worker = Instance::new(ctx.clone(), "s1".parse().unwrap(), mailbox.clone());
        let worker = tokio::spawn(worker.run());
        Self { backend, engine, ctx, mailbox, roster: Roster::default(), worker, _home: home }
    }

    fn serve(&self, server: Server) {
        let target = EngineServer {
            server,
            public: ServerPublic::Shadowsocks2022,
            secret: Zeroizing::new(vec![7; 16]),
            own_addresses: Vec::new(),
        };
        self.mailbox.order(Order::Serve(Arc::new(target), self.roster.clone()), None);
    }

    /// As the agent does: first the roster, then the news.
    fn comes(&self, name: &str) {
        let name: UserName = name.parse().unwrap();
        let secret = UserSecret::Shadowsocks2022(Zeroizing::new([1; 16]));
        self.roster
            .lock()
            .insert(name.clone(), EngineUser { name: name.clone(), id: UserId(Uuid::now_v7()), secret });
        self.mailbox.users(&[name], &[]);
    }

    fn goes(&self, name: &str) {
        let name: UserName = name.parse().unwrap();
        self.roster.lock().remove(&name);
        self.mailbox.users(&[name], &[]);
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(SOON, waiting).await.is_err() {
            panic!("never: {what}; {:?}, calls {:?}", self.state(), self.backend.calls());
        }
    }

    async fn runs(&self) {
        self.until("it runs", || self.state() == Some(InstanceState::Running)).await;
    }

    fn state(&self) -> Option<InstanceState> {
        self.ctx.reports.last(&"s1".parse().unwrap()).map(|instance| instance.state)
    }

    fn count(&self, call: Call) -> usize {
        self.backend.calls().iter().filter(|(found, _)| *found == call).count()
    }

    fn pid(&self) -> Option<u32> {
        self.backend.containers().iter().find_map(running)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

fn config(home: &Path) -> Config {
    Config {
        node: "n1".parse().unwrap(),
        address: None,
        backend: Choice::Auto,
        docker_socket: home.join("no.sock"),
        state_dir: home.join("state"),
        run_dir: home.join("run"),
        search: Vec::new(),
        xray: "xray".into(),
        vpnd: "vpnd".into(),
        xray_image: "xray:1".parse().unwrap(),
        wireguard_image: "wireguard:1".parse().unwrap(),
    }
}

fn server() -> Server {
    Server {
        name: "s1".parse().unwrap(),
        id: ServerId(Uuid::from_u128(1)),
        protocol: Protocol::Shadowsocks2022,
        port: "8388".parse().unwrap(),
        node: "n1".parse().unwrap(),
        image: None,
        reality: None,
        resources: Resources::default(),
        allow_private: Vec::new(),
        running: true,
        restarts: 0,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::test(start_paused = true)]
async fn it_comes_serves_and_goes() {
    let world = World::new();
    world.comes("alice");
    world.serve(server());
    world.runs().await;
    assert_eq!(world.engine.users(), ["alice"]);
    world.comes("bob");
    world.goes("alice");
    world.until("bob is in and alice is out", || world.engine.users() == ["bob"]).await;
    world.until("the file is brought up to date", || world.engine.saved() > 0).await;
    assert_eq!(world.engine.prepared(), 1, "users come and go without a restart");

    world.serve(Server { running: false, ..server() });
    world.until("it stops", || world.state() == Some(InstanceState::Stopped)).await;
    assert_eq!(world.pid(), None);
    world.serve(server());
    world.runs().await;
    assert_eq!(world.count(Call::Create), 1, "what was stopped is started, not made anew");

    world.mailbox.order(Order::Gone, None);
    world.until("nothing is left", || world.backend.containers().is_empty()).await;
    world.until("its worker ends", || world.worker.is_finished()).await;
    assert_eq!(world.state(), None);
}

#[tokio::test(start_paused = true)]
async fn what_runs_already_is_taken_over() {
    let world = World::new();
    world.serve(server());
    world.runs().await;
    let pid = world.pid();
    // A new agent gives the same order again.
    world.comes("alice");
    world.serve(server());
    world.until("alice is in", || world.engine.users() == ["alice"]).await;
    world.runs().await;
    assert_eq!((world.pid(), world.engine.prepared()), (pid, 1));
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_failures_make_nothing_twice() {
    for call in [Call::Find, Call::Create, Call::Start] {
        for fault in [
            Fault::Before(Code::RUNTIME_BACKEND_TIMEOUT),
            Fault::After(Code::RUNTIME_BACKEND_TIMEOUT),
            Fault::Before(Code::RUNTIME_BACKEND_REFUSED),
        ] {
            let world = World::new();
            world.backend.fault(call, 1, fault.clone());
            world.comes("alice");
            world.serve(server());
            world.runs().await;
            assert_eq!(world.backend.containers().len(), 1, "{call:?} {fault:?}");
            assert_eq!(world.engine.users(), ["alice"], "{call:?} {fault:?}");
            let calls = if matches!(fault, Fault::Before(_)) { 2 } else { 1 };
            assert!(world.count(call) >= calls, "{call:?} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_died_or_vanished_is_there_again() {
    let world = World::new();
    world.comes("alice");
    world.serve(server());
    world.runs().await;
    let name: ServerName = "s1".parse().unwrap();
    let first = world.pid();
    assert!(world.backend.die(&name, 137));
    world.mailbox.look();
    world.until("another process runs", || world.pid().is_some() && world.pid() != first).await;
    world
        .until("it has its users", || world.engine.users() == ["alice"] && world.engine.prepared() == 2)
        .await;
    // Nobody says that it vanished: it is found at the next look.
    world.backend.mute(true);
    world.backend.vanish(&name);
    world.until("it is made anew", || world.pid().is_some() && world.count(Call::Create) == 2).await;
    world.runs().await;
}

#[tokio::test(start_paused = true)]
async fn what_keeps_dying_is_tried_ever_more_slowly() {
    let world = World::new();
    world.serve(server());
    world.runs().await;
    let name: ServerName = "s1".parse().unwrap();
    let began = Instant::now();
    for deaths in 1..=9 {
        world.until("it runs again", || world.pid().is_some()).await;
        world.backend.die(&name, 1);
        world.mailbox.look();
        world.until("it is started again", || world.count(Call::Start) == deaths + 1).await;
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(20), "nine starts in {took:?} are too many");
    assert!(took < Duration::from_secs(120), "nine starts in {took:?} are too few");
}

#[tokio::test(start_paused = true)]
async fn another_setting_makes_another_container_with_the_same_users() {
    let world = World::new();
    world.comes("alice");
    world.serve(server());
    world.runs().await;
    let revision = |world: &World| world.backend.containers().into_iter().map(|found| found.revision).next();
    let before = revision(&world);
    world.serve(Server { port: "8389".parse().unwrap(), ..server() });
    world.until("another container runs", || revision(&world) != before && world.pid().is_some()).await;
    world.runs().await;
    assert_eq!(world.engine.users(), ["alice"]);
    assert_eq!(world.backend.containers().len(), 1);

    let (revision_then, restarted) =
        (revision(&world), Server { restarts: 1, port: "8389".parse().unwrap(), ..server() });
    world.serve(restarted);
    world
        .until("a restart makes it anew", || revision(&world) != revision_then && world.pid().is_some())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_hangs_keeps_no_user_waiting() {
    let world = World::new();
    world.serve(server());
    world.runs().await;
    world.backend.fault(Call::Find, world.count(Call::Find) + 1, Fault::Hang);
    world.mailbox.look();
    let hangs = world.count(Call::Find) + 1;
    world.until("the daemon is asked", || world.count(Call::Find) == hangs).await;
    world.comes("alice");
    world.until("alice is in", || world.engine.users() == ["alice"]).await;
    world.goes("alice");
    world.until("alice is out", || world.engine.users().is_empty()).await;
    assert_eq!(world.count(Call::Find), hangs, "it hangs still");
    world.backend.release();
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_the_daemon_is_asked_is_looked_at_again() {
    let world = World::new();
    world.serve(server());
    world.runs().await;
    let asked = world.count(Call::Find) + 1;
    world.backend.fault(Call::Find, asked, Fault::Hang);
    world.mailbox.look();
    world.until("the daemon is asked", || world.count(Call::Find) == asked).await;
    world.mailbox.look();
    world.comes("alice");
    world.until("the news are read", || world.engine.users() == ["alice"]).await;
    let answered = Instant::now();
    world.backend.release();
    world.until("it is asked again", || world.count(Call::Find) > asked).await;
    assert!(answered.elapsed() < LOOK_EVERY / 2, "only when everything is: after {:?}", answered.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_down_takes_nothing_from_an_engine_that_serves() {
    let world = World::new();
    world.serve(server());
    world.runs().await;
    world.backend.go_down();
    world.mailbox.look();
    world.comes("alice");
    world.until("alice is in", || world.engine.users() == ["alice"]).await;
    assert_eq!(world.state(), Some(InstanceState::Running));
    world.backend.come_up();
    world.runs().await;
    assert_eq!(world.engine.prepared(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_refuses_is_compared_again() {
    let world = World::new();
    world.serve(server());
    world.runs().await;
    world.engine.fail(1);
    world.comes("alice");
    world.until("alice is in all the same", || world.engine.users() == ["alice"]).await;
    assert_eq!(world.engine.prepared(), 1, "without a restart");
}

#[tokio::test(start_paused = true)]
async fn why_it_does_not_run_is_said_with_its_last_words() {
    let world = World::new();
    world.engine.fail(1);
    world.serve(server());
    world
        .until("it failed or runs", || {
            matches!(world.state(), Some(InstanceState::Failed { .. } | InstanceState::Running))
        })
        .await;
    world.runs().await;

    let world = World::new();
    world.backend.without_image(&"engine:1".parse().unwrap());
    world.serve(server());
    let missing = |state: Option<InstanceState>| matches!(state, Some(InstanceState::Failed { error }) if error.code == Code::RUNTIME_IMAGE_MISSING);
    world.until("it says what is missing", || missing(world.state())).await;
}
