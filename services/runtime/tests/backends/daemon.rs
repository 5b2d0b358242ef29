//! A Docker daemon of a test's own, killed and started again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use contract::Code;
use runtime::backend::{
    ContainerRuntime, ContainerState, Notice,
    docker::{Deadlines, Docker, Settings},
};
use testkit::{programs::program, wait::eventually};
use tokio_util::task::TaskTracker;

use crate::site::{SOON, Site, noticed, the_image};

const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// dockerd beside the machine's own: with its own files, its own names in the machine's containerd, and in a network
/// namespace of its own: two of them in one would take each other's bridge and rules away.
struct Daemon {
    home: tempfile::TempDir,
    process: Option<Child>,
}

impl Daemon {
    async fn start() -> Self {
        assert!(Path::new(CONTAINERD).exists(), "containerd does not run: run `make setup`");
        let mut daemon = Self { home: tempfile::tempdir().unwrap(), process: None };
        daemon.start_again().await;
        the_image(&daemon.socket());
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("d.sock")
    }

    /// In containerd names are letters, digits and dashes.
    fn namespace(&self) -> String {
        let name = self.home.path().file_name().unwrap().to_str().unwrap();
        format!("vpn-test-{}", name.trim_start_matches('.').to_ascii_lowercase())
    }

    async fn start_again(&mut self) {
        let (home, namespace) = (self.home.path(), self.namespace());
        let log = std::fs::File::options().create(true).append(true).open(home.join("log")).unwrap();
        let plugins = format!("{namespace}-p");
        let process = Command::new(program("unshare"))
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .arg(program("dockerd"))
            .args(["--iptables=false", "--ip6tables=false", "--containerd", CONTAINERD])
            .args(["--containerd-namespace", &namespace, "--containerd-plugins-namespace", &plugins])
            .arg(format!("--host=unix://{}", self.socket().display()))
            .args(["--data-root".as_ref(), home.join("data").as_os_str()])
            .args(["--exec-root".as_ref(), home.join("exec").as_os_str()])
            .args(["--pidfile".as_ref(), home.join("pid").as_os_str()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let socket = self.socket();
        eventually("the daemon answers", 2 * SOON, async || {
            self.docker(&["version"]).status().is_ok_and(|status| status.success()) && socket.exists()
        })
        .await;
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        // A daemon that is killed leaves its pid file; if the number is used again, the next one refuses to start.
        let _ = std::fs::remove_file(self.home.path().join("pid"));
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new(program("docker"));
        docker.arg("--host").arg(format!("unix://{}", self.socket().display())).args(arguments);
        docker.stdout(Stdio::null()).stderr(Stdio::null());
        docker
    }

    fn backend(&self, site: &Site, tasks: &TaskTracker) -> Docker {
        let settings =
            Settings { node: site.node.clone(), socket: self.socket(), deadlines: Deadlines::default() };
        Docker::new(settings, tasks.clone())
    }

    /// All containers of the daemon, by its own client: name and state.
    fn containers(&self) -> BTreeMap<String, Vec<String>> {
        let listed =
            self.docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).stdout(Stdio::piped()).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, state) in listed.lines().filter_map(|line| line.split_once(' ')) {
            found.entry(name.to_owned()).or_default().push(state.to_owned());
        }
        found
    }
}

/// The first processes of all containers that bear the mark, known to a daemon or not.
fn really_running(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let bears_it = |process: &std::fs::DirEntry| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let first = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        first && String::from_utf8_lossy(&environment).contains(mark)
    };
    processes.filter(bears_it).count()
}

/// Whether containerd supervises anything in the namespace.
fn has_shims(namespace: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| {
        let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
        arguments[0].ends_with(b"containerd-shim-runc-v2") && arguments.contains(&namespace.as_bytes())
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        for name in self.containers().keys() {
            let _ = self.docker(&["rm", "-f", name]).status();
        }
        // Asked to, it lets go of its mounts.
        let _ = Command::new("kill").arg(process.id().to_string()).status();
        let deadline = Instant::now() + SOON;
        while process.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
        self.clear_away();
    }
}

impl Daemon {
    /// What a daemon that was killed leaves in the machine, whoever comes after it.
    fn clear_away(&self) {
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(testkit::programs::program(program)).args(arguments).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let namespace = self.namespace();
        for task in run("ctr", &["-n", &namespace, "tasks", "ls", "-q"]).lines() {
            run("ctr", &["-n", &namespace, "tasks", "delete", "--force", task]);
        }
        for container in run("ctr", &["-n", &namespace, "containers", "ls", "-q"]).lines() {
            run("ctr", &["-n", &namespace, "containers", "delete", container]);
        }
        run("ctr", &["namespaces", "remove", &namespace, &format!("{namespace}-p")]);
        // Containerd's shims tidy up in the daemon's folder, and need it for that.
        let deadline = Instant::now() + SOON;
        while has_shims(&namespace) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let of_ours = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for mount in of_ours.filter(|path| Path::new(path).starts_with(self.home.path())) {
            run("umount", &["-l", mount]);
        }
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_is_found_again() {
    let (site, tasks) = (Site::fake().await, TaskTracker::new());
    let mut daemon = Daemon::start().await;
    let docker = daemon.backend(&site, &tasks);
    let mut spec = site.spec("s1");
    *spec.args.last_mut().unwrap() = docker.inside(&spec.run_dir).to_str().unwrap().to_owned();
    let mut notices = docker.notices();
    docker.create(&spec).await.unwrap();
    docker.start(&spec).await.unwrap();

    daemon.kill();
    let began = Instant::now();
    assert_eq!(docker.list().await.unwrap_err().code, Code::RUNTIME_BACKEND_UNREACHABLE);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    daemon.start_again().await;
    noticed(&mut notices, |notice| matches!(notice, Notice::Gap).then_some(())).await;
    // Whatever became of it meanwhile: it is there, and once.
    let found = docker.list().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    docker.create(&spec).await.unwrap();
    docker.start(&spec).await.unwrap();
    assert!(matches!(docker.list().await.unwrap()[0].state, ContainerState::Running { .. }));
    docker.remove(&spec.server).await.unwrap();
    assert_eq!(docker.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_moment_leaves_nothing_doubled() {
    const ROUNDS: usize = 6;
    let (site, tasks) = (Site::fake().await, TaskTracker::new());
    let mut daemon = Daemon::start().await;
    let docker = daemon.backend(&site, &tasks);
    let specs = ["s1", "s2", "s3"].map(|server| {
        let mut spec = site.spec(server);
        spec.env = vec![("MARK".to_owned(), site.node.to_string())];
        *spec.args.last_mut().unwrap() = docker.inside(&spec.run_dir).to_str().unwrap().to_owned();
        spec
    });
    let mut seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    for round in 0..ROUNDS {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let moment = Duration::from_millis(u64::from(seed >> 16) % 800);
        let up = futures::future::join_all(specs.iter().map(async |spec| {
            docker.create(spec).await?;
            docker.start(spec).await
        }));
        let killed = async {
            tokio::time::sleep(moment).await;
            daemon.kill();
        };
        // Some of it fails, as it must.
        let _ = tokio::join!(up, killed);
        daemon.start_again().await;

        // What is not desired any more is not started first.
        let wanted = if round % 2 == 0 { specs.as_slice() } else { &[] };
        for spec in wanted {
            // Reconciling repeats what failed, and so does this; what counts is that it gets there.
            eventually(
                &format!("round {round}, killed after {moment:?}: {} runs", spec.server),
                SOON,
                async || {
                    docker.create(spec).await?;
                    docker.start(spec).await
                },
            )
            .await;
        }
        if !wanted.is_empty() {
            let names = specs.iter().map(|spec| runtime::backend::instance_name(&site.node, &spec.server));
            let running: BTreeMap<String, Vec<String>> =
                names.map(|name| (name, vec!["running".to_owned()])).collect();
            assert_eq!(daemon.containers(), running, "round {round}, killed after {moment:?}");
            assert_eq!(
                really_running(site.node.as_str()),
                specs.len(),
                "round {round}, killed after {moment:?}"
            );
        }
        for spec in &specs {
            docker.remove(&spec.server).await.unwrap();
        }
        assert_eq!(daemon.containers(), BTreeMap::new(), "round {round}, killed after {moment:?}");
        assert_eq!(really_running(site.node.as_str()), 0, "round {round}, killed after {moment:?}");
    }
}
