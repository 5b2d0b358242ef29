//! Agents that are killed, and what their children do then.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use contract::{Code, runtime::ContainerEventKind};
use runtime::backend::{
    ContainerRuntime as _, ContainerState, Notice, Rights, UNKNOWN_EXIT, process::Process,
};
use testkit::wait::eventually;
use tokio_util::task::TaskTracker;

use crate::site::{SOON, Site, does, noticed, output, process_settings, tcp};

const GRACE: Duration = Duration::from_secs(10);

/// Tests of agents that end run this program once more as such an agent.
const AGENT: &str = "VPN_TEST_AGENT";

#[tokio::test]
async fn a_child_outlives_its_agent_and_is_adopted() {
    let mut site = Site::process().await;
    let spec = site.spec("s1");
    let pid = site.up(&spec).await;
    assert_eq!(session(pid), Some(pid), "it has a session of its own");

    site.restart().await;
    assert_eq!(site.pid(&spec.server).await, pid);
    site.backend.start(&spec).await.unwrap();
    site.backend.create(&spec).await.unwrap();
    assert_eq!(site.pid(&spec.server).await, pid, "neither made nor started again");

    // Its end is seen, and at once; only its code is not.
    let mut notices = site.backend.notices();
    site.end(&spec, 3);
    eventually("it ends", SOON, async || session(pid).is_none()).await;
    let ended = Instant::now();
    let code = noticed(&mut notices, |notice| match notice {
        Notice::Container { kind: ContainerEventKind::Exited(code), .. } => Some(*code),
        _ => None,
    });
    assert_eq!(code.await, UNKNOWN_EXIT);
    assert!(ended.elapsed() < Duration::from_millis(100), "seen after {:?}", ended.elapsed());
    assert_eq!(site.state(&spec.server).await, Some(ContainerState::Exited { code: UNKNOWN_EXIT }));
}

#[tokio::test]
async fn an_adopted_child_is_stopped_and_removed() {
    let mut site = Site::process().await;
    for script in [does::SERVE, does::RESIST] {
        let spec = site.spec_of("s1", script);
        let pid = site.up(&spec).await;
        site.restart().await;
        site.backend.stop(&spec.server, Duration::from_secs(1)).await.unwrap();
        assert!(matches!(site.state(&spec.server).await, Some(ContainerState::Exited { .. })));
        assert_eq!(session(pid), None);
        site.backend.remove(&spec.server).await.unwrap();
        assert_eq!(site.backend.list().await.unwrap(), []);
    }
}

#[tokio::test]
async fn an_end_that_no_agent_saw_is_found() {
    let mut site = Site::process().await;
    let spec = site.spec("s1");
    let pid = site.up(&spec).await;
    let (state_dir, node) = (site.state_dir().to_owned(), site.node.clone());
    // No agent at all for a while.
    site.backend = std::sync::Arc::new(runtime::backend::fake::Fake::new());
    site.end(&spec, 0);
    eventually("it ends", SOON, async || session(pid).is_none()).await;
    let backend = Process::open(process_settings(&node, &state_dir), TaskTracker::new()).await.unwrap();
    let found = backend.list().await.unwrap();
    assert_eq!(found[0].state, ContainerState::Exited { code: UNKNOWN_EXIT });
    fs::remove_file(spec.run_dir.join("end")).unwrap();
    backend.start(&spec).await.unwrap();
    assert!(matches!(backend.list().await.unwrap()[0].state, ContainerState::Running { .. }));
    backend.remove(&spec.server).await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_given_up_at_any_moment_starts_once() {
    let site = Site::process().await;
    for micros in (0..12_000).step_by(400) {
        let spec = site.spec("s1");
        site.backend.create(&spec).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_micros(micros), site.backend.start(&spec)).await;
        site.backend.start(&spec).await.unwrap();
        let pid = site.pid(&spec.server).await;
        let only = BTreeMap::from([("s1".to_owned(), vec![pid])]);
        // For the moment of an exec a process has no command line to be found by.
        eventually("it is the only one", SOON, async || {
            let leaders = leaders(site.state_dir());
            if leaders == only {
                Ok(())
            } else {
                Err(format!("given up after {micros} µs: {leaders:?}, not {pid}"))
            }
        })
        .await;
        site.backend.remove(&spec.server).await.unwrap();
        assert_eq!(self::leaders(site.state_dir()), BTreeMap::new());
    }
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_moment_leaves_nothing_doubled() {
    const ROUNDS: u32 = 15;
    let site = Site::process().await;
    let mut seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    for round in 0..ROUNDS {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut agent = agent("process::killed_agent", site.state_dir(), site.node.as_str(), |_| {});
        let started = site.state_dir().join("agent-started");
        eventually("the agent works", SOON, async || fs::remove_file(&started)).await;
        std::thread::sleep(Duration::from_millis(u64::from(seed >> 16) % 120));
        agent.kill().unwrap();
        agent.wait().unwrap();

        // Its successor finds all of it, and each only once.
        let settings = process_settings(&site.node, site.state_dir());
        let successor = Process::open(settings, TaskTracker::new()).await.unwrap();
        // One that was being killed at that moment may seem to run for another one: then, as an agent does, again.
        let running = eventually("all of them run", SOON, async || {
            for spec in worked_on(&site) {
                match successor.create(&spec).await {
                    Ok(()) => successor.start(&spec).await.unwrap(),
                    Err(error) => panic!("round {round}: {error}"),
                }
            }
            let mut running = BTreeMap::new();
            for container in successor.list().await.unwrap() {
                let ContainerState::Running { pid } = container.state else {
                    return Err(format!("round {round}: {container:?}"));
                };
                running.insert(container.server.to_string(), vec![pid]);
            }
            Ok(running)
        })
        .await;
        assert_eq!(running.len(), worked_on(&site).len());
        eventually("they are all there is", SOON, async || {
            let leaders = leaders(site.state_dir());
            if leaders == running {
                Ok(())
            } else {
                Err(format!("round {round}: {leaders:?}, not {running:?}"))
            }
        })
        .await;
    }
    let settings = process_settings(&site.node, site.state_dir());
    let last = Process::open(settings, TaskTracker::new()).await.unwrap();
    for spec in worked_on(&site) {
        last.remove(&spec.server).await.unwrap();
    }
    assert_eq!(leaders(site.state_dir()), BTreeMap::new());
    let left: Vec<PathBuf> = fs::read_dir(site.state_dir().join("instances"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

fn worked_on(site: &Site) -> Vec<runtime::backend::Spec> {
    ["s1", "s2", "s3"].map(|server| site.spec(server)).to_vec()
}

/// Not a test of its own: what [`an_agent_that_is_killed_at_any_moment_leaves_nothing_doubled`] kills.
#[tokio::test]
async fn killed_agent() {
    let Some((home, node)) = as_an_agent() else { return };
    let backend =
        Process::open(process_settings(&node.parse().unwrap(), &home), TaskTracker::new()).await.unwrap();
    let site = Site::fake().await;
    fs::write(home.join("agent-started"), "").unwrap();
    loop {
        let work = worked_on(&site).into_iter().map(async |mut spec| {
            spec.run_dir = home.join("run").join(spec.server.as_str());
            *spec.args.last_mut().unwrap() = spec.run_dir.to_str().unwrap().to_owned();
            backend.create(&spec).await.unwrap();
            backend.start(&spec).await.unwrap();
            backend.remove(&spec.server).await.unwrap();
        });
        futures::future::join_all(work).await;
    }
}

#[tokio::test]
async fn a_plain_user_s_agent_runs_what_it_can_and_says_what_it_cannot() {
    const USER: u32 = 65533;
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(USER), Some(USER)).unwrap();
    let plain = |command: &mut Command| {
        command.uid(USER).gid(USER).current_dir(home.path());
    };
    let agent = agent("process::plain_user_s_agent", home.path(), "plain", plain);
    let ended = agent.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

/// Not a test of its own: what [`a_plain_user_s_agent_runs_what_it_can_and_says_what_it_cannot`] runs as another user.
#[tokio::test]
async fn plain_user_s_agent() {
    let Some((_, _)) = as_an_agent() else { return };
    let site = Site::process().await;
    let mut spec = site.spec("s1");
    let pid = site.up(&spec).await;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["Uid:\t65533\t65533\t65533\t65533", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    site.backend.stop(&spec.server, GRACE).await.unwrap();
    assert_eq!(site.state(&spec.server).await, Some(ContainerState::Exited { code: 0 }));

    spec.ports = vec![tcp(443)];
    let error = site.backend.start(&spec).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_NOT_PERMITTED);
    assert!(
        error.message.contains("443") && error.message.contains("CAP_NET_BIND_SERVICE"),
        "{}",
        error.message
    );
    spec.ports.clear();
    spec.rights = Rights::Network;
    assert_eq!(site.backend.start(&spec).await.unwrap_err().code, Code::RUNTIME_NOT_PERMITTED);

    let checks = site.backend.checks().await;
    let failed: Vec<&str> =
        checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
    for name in ["process users", "process networks", "process ports"] {
        assert!(failed.contains(&name), "{checks:?}");
    }
}

#[tokio::test]
async fn what_an_instance_leaves_behind_goes_with_it() {
    let site = Site::process().await;
    let spec = site.spec_of("s1", "/bin/busybox sleep 600 & echo $!; exit 0");
    site.backend.create(&spec).await.unwrap();
    site.backend.start(&spec).await.unwrap();
    let left: u32 = eventually("it says whom it left", SOON, async || {
        site.backend.last_words(&spec.server).await.unwrap().trim().parse()
    })
    .await;
    eventually("that one is gone too", SOON, async || session(left).is_none()).await;
    site.backend.remove(&spec.server).await.unwrap();
}

#[tokio::test]
async fn what_was_left_behind_while_no_agent_looked_is_in_nobody_s_way() {
    let mut site = Site::process().await;
    // It keeps the lock, and leaves the session and so the group.
    let script = "/bin/busybox setsid /bin/busybox sleep 600 <&0 & echo $! >$0/left; ";
    for again in [true, false] {
        let spec = site.spec_of("s1", &format!("{script}{}", does::SERVE));
        let pid = site.up(&spec).await;
        let left: u32 = fs::read_to_string(spec.run_dir.join("left")).unwrap().trim().parse().unwrap();
        eventually("it leaves", SOON, async || session(left) == Some(left)).await;
        let (settings, tasks) = (process_settings(&site.node, site.state_dir()), TaskTracker::new());
        site.backend = std::sync::Arc::new(runtime::backend::fake::Fake::new());
        output("kill", &["-KILL", &pid.to_string()]);
        eventually("it ends", SOON, async || session(pid).is_none()).await;
        assert_eq!(session(left), Some(left), "nobody has looked yet");

        site.backend = std::sync::Arc::new(Process::open(settings, tasks).await.unwrap());
        if again {
            site.up(&spec).await;
        }
        site.backend.remove(&spec.server).await.unwrap();
        eventually("what it left is gone", SOON, async || session(left).is_none()).await;
    }
}

#[tokio::test]
async fn a_flood_of_words_is_bounded() {
    const FLOOD: u64 = 40 * 1024 * 1024;
    let site = Site::process().await;
    let script = format!(
        "/bin/busybox yes 'so many words' | /bin/busybox head -c {FLOOD}; echo; echo enough; {}",
        does::SERVE
    );
    let spec = site.spec_of("s1", &script);
    site.up(&spec).await;
    let instance = site.state_dir().join("instances").join(format!("vpn.{}.s1", site.node));
    eventually("what it said is cut", SOON, async || {
        let size = |name: &str| fs::metadata(instance.join(name)).map_or(0, |file| file.len());
        size("log") + size("log.1") <= 8 * 1024 * 1024 && size("log.1") > 0
    })
    .await;
    eventually("its last words are there", SOON, async || {
        site.backend.last_words(&spec.server).await.unwrap().contains("enough")
    })
    .await;
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let site = Site::process().await;
    let mut spec = site.spec("s1");
    let program = site.state_dir().join("engine");
    fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, all).unwrap();
    spec.program = program;
    site.backend.create(&spec).await.unwrap();
    let error = site.backend.start(&spec).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_ENGINE_FAILED);
    assert!(error.message.contains("No such file"), "{}", error.message);
    assert!(matches!(site.state(&spec.server).await, Some(ContainerState::Exited { .. })));

    // And a run directory that its user can't get to.
    let mut spec = site.spec("s2");
    let private = site.state_dir().join("private");
    fs::create_dir(&private).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&private, closed).unwrap();
    spec.run_dir = private.join("run");
    let error = site.backend.create(&spec).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_NOT_PERMITTED);
    assert!(error.message.contains(&format!("chmod o+x {}", private.display())), "{}", error.message);
}

#[tokio::test]
async fn no_dead_child_stays() {
    let site = Site::process().await;
    let spec = site.spec("s1");
    let mut pids = Vec::new();
    for _ in 0..5 {
        pids.push(site.up(&spec).await);
        site.backend.stop(&spec.server, GRACE).await.unwrap();
    }
    site.backend.remove(&spec.server).await.unwrap();
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} was never waited for");
    }
    let group =
        output("find", &["/sys/fs/cgroup", "-maxdepth", "4", "-name", &format!("vpn.{}.*", site.node)]);
    assert_eq!(group, "", "its cgroups are gone with it");
}

/// Runs one test of this program as an agent of its own.
fn agent(test: &str, home: &Path, node: &str, also: impl Fn(&mut Command)) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(AGENT, format!("{}:{node}", home.display()));
    command.env("TMPDIR", home).stdout(Stdio::piped()).stderr(Stdio::piped());
    also(&mut command);
    command.spawn().unwrap()
}

fn as_an_agent() -> Option<(PathBuf, String)> {
    let agent = std::env::var(AGENT).ok()?;
    let (home, node) = agent.split_once(':').unwrap();
    Some((home.into(), node.to_owned()))
}

/// The session of a process; `None` for one that has ended.
fn session(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (!fields[0].starts_with(['Z', 'X'])).then(|| fields[3].parse().unwrap())
}

/// The first processes of all instances that have their run directory below this one, by server.
fn leaders(home: &Path) -> BTreeMap<String, Vec<u32>> {
    let run = format!("{}/run/", home.display());
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for pid in
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(server) = line.split('\0').find_map(|argument| argument.strip_prefix(&run))
            && session(pid) == Some(pid)
        {
            found.entry(server.to_owned()).or_default().push(pid);
        }
    }
    found
}
