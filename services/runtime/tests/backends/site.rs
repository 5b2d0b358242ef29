//! A backend of a test's own, and how to make its instances do things.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use contract::{ImageRef, NodeName, Port, ServerName, fleet::ServerId, value::Transport};
use runtime::backend::{
    Container, ContainerRuntime, ContainerState, Notice, Rights, Spec,
    docker::{self, Docker},
    fake::Fake,
    process::{self, Process},
};
use testkit::wait::eventually;
use tokio::sync::mpsc::Receiver;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Long enough for a busy machine; nothing here waits for its end.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// What instances are made from: busybox in an image of its own, or the same file as a program.
const IMAGE: &str = "vpn-test-busybox:1";
const BUSYBOX: &str = "/bin/busybox";

/// What an instance does, as a shell script: `$0` is the run directory as it sees it.
pub(crate) mod does {
    /// Runs until it is told to end, by a signal or by a file.
    pub(crate) const SERVE: &str = r#"
trap 'exit 0' TERM
: >"$0/up"
while [ ! -s "$0/end" ]; do /bin/busybox sleep 0.05 & wait $!; done
read -r code <"$0/end"
exit "$code""#;
    /// Runs, whatever it is told.
    pub(crate) const RESIST: &str = r#"
trap '' TERM
: >"$0/up"
while :; do /bin/busybox sleep 0.05; done"#;
}

/// A backend of a test's own.
pub(crate) struct Site {
    pub(crate) backend: Arc<dyn ContainerRuntime>,
    pub(crate) fake: Option<Fake>,
    pub(crate) node: NodeName,
    pub(crate) tasks: TaskTracker,
    home: tempfile::TempDir,
}

impl Site {
    pub(crate) async fn fake() -> Self {
        let fake = Fake::new();
        let node = a_node();
        Self {
            backend: Arc::new(fake.clone()),
            fake: Some(fake),
            node,
            tasks: TaskTracker::new(),
            home: a_home(),
        }
    }

    pub(crate) async fn process() -> Self {
        let (node, tasks, home) = (a_node(), TaskTracker::new(), a_home());
        let settings = process_settings(&node, home.path());
        let backend = Process::open(settings, tasks.clone()).await.unwrap();
        Self { backend: Arc::new(backend), fake: None, node, tasks, home }
    }

    pub(crate) async fn docker() -> Self {
        static MADE: std::sync::Once = std::sync::Once::new();
        MADE.call_once(|| the_image(&docker_socket()));
        let (node, tasks) = (a_node(), TaskTracker::new());
        let backend = Docker::new(docker_settings(&node), tasks.clone());
        Self { backend: Arc::new(backend), fake: None, node, tasks, home: a_home() }
    }

    /// The agent ends and another one takes its place.
    pub(crate) async fn restart(&mut self) {
        let settings = process_settings(&self.node, self.home.path());
        // The old one is gone before the new one is there.
        self.backend = Arc::new(Fake::new());
        self.tasks = TaskTracker::new();
        self.backend = Arc::new(Process::open(settings, self.tasks.clone()).await.unwrap());
    }

    pub(crate) fn state_dir(&self) -> &Path {
        self.home.path()
    }

    /// A server that serves.
    pub(crate) fn spec(&self, server: &str) -> Spec {
        self.spec_of(server, does::SERVE)
    }

    pub(crate) fn spec_of(&self, server: &str, script: &str) -> Spec {
        let server: ServerName = server.parse().unwrap();
        let run_dir = self.home.path().join("run").join(server.as_str());
        let inside = self.backend.inside(&run_dir).to_str().unwrap().to_owned();
        Spec {
            server_id: ServerId(Uuid::from_u128(u128::from(server.as_str().len() as u64) + 1)),
            server,
            revision: "1".to_owned(),
            image: IMAGE.parse().unwrap(),
            program: BUSYBOX.into(),
            args: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), inside],
            env: vec![("MARK".to_owned(), "a mark".to_owned())],
            ports: Vec::new(),
            run_dir,
            rights: Rights::None,
            memory: 64 * 1024 * 1024,
            pids: 32,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        }
    }

    /// Makes and starts it, and waits until its script says that it is up.
    pub(crate) async fn up(&self, spec: &Spec) -> u32 {
        self.backend.create(spec).await.unwrap();
        self.backend.start(spec).await.unwrap();
        if self.fake.is_none() {
            eventually("it says that it is up", SOON, async || fs::remove_file(spec.run_dir.join("up")))
                .await;
        }
        self.pid(&spec.server).await
    }

    pub(crate) async fn pid(&self, server: &ServerName) -> u32 {
        match self.state(server).await {
            Some(ContainerState::Running { pid }) => pid,
            other => panic!("{server} does not run: {other:?}"),
        }
    }

    pub(crate) async fn found(&self, server: &ServerName) -> Option<Container> {
        self.backend.list().await.unwrap().into_iter().find(|container| container.server == *server)
    }

    pub(crate) async fn state(&self, server: &ServerName) -> Option<ContainerState> {
        self.found(server).await.map(|container| container.state)
    }

    /// Makes it end by itself.
    pub(crate) fn end(&self, spec: &Spec, code: i32) {
        match &self.fake {
            Some(fake) => assert!(fake.die(&spec.server, code)),
            // Its own file name first: a half written one would be read.
            None => {
                let (new, end) = (spec.run_dir.join("new"), spec.run_dir.join("end"));
                fs::write(&new, format!("{code}\n")).unwrap();
                let all = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                fs::set_permissions(&new, all).unwrap();
                fs::rename(&new, end).unwrap();
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Whatever a failed test left.
        let filter = format!("label=vpn.node={}", self.node);
        if self.backend.name() == "docker" {
            let left = output("docker", &["ps", "-aq", "--filter", &filter]);
            for container in left.lines() {
                output("docker", &["rm", "-f", container]);
            }
        }
        if self.home.path().join("instances").exists() {
            let settings = process_settings(&self.node, self.home.path());
            // The test's own runtime can't be waited on here.
            let removed = std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let backend = Process::open(settings, TaskTracker::new()).await?;
                    for container in backend.list().await? {
                        backend.remove(&container.server).await?;
                    }
                    Ok::<(), runtime::backend::Error>(())
                })
            });
            if !matches!(removed.join(), Ok(Ok(()))) && !std::thread::panicking() {
                panic!("what the test made cannot be removed");
            }
        }
    }
}

pub(crate) fn process_settings(node: &NodeName, home: &Path) -> process::Settings {
    let search = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    process::Settings { node: node.clone(), state_dir: home.to_owned(), search }
}

pub(crate) fn docker_settings(node: &NodeName) -> docker::Settings {
    docker::Settings { node: node.clone(), socket: docker_socket(), deadlines: docker::Deadlines::default() }
}

pub(crate) fn docker_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").ok();
    let socket = runtime::backend::detect::docker_socket(host.as_deref()).unwrap();
    assert!(
        std::os::unix::net::UnixStream::connect(&socket).is_ok(),
        "no docker daemon answers on {}: run `make setup`",
        socket.display()
    );
    socket
}

fn a_node() -> NodeName {
    format!("test-{}", Uuid::new_v4().simple()).parse().unwrap()
}

fn a_home() -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("vpn-backends-").tempdir().unwrap();
    // Instances are other users, and their run directories are below it.
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    fs::set_permissions(home.path(), passable).unwrap();
    home
}

/// Makes the image of the tests from busybox, unless the daemon has it.
pub(crate) fn the_image(socket: &Path) {
    assert!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing: run `make setup`");
    let docker = || {
        let mut docker = Command::new(testkit::programs::program("docker"));
        docker.arg("--host").arg(format!("unix://{}", socket.display()));
        docker
    };
    if docker().args(["image", "inspect", IMAGE]).output().unwrap().status.success() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("bin")).unwrap();
    fs::copy(BUSYBOX, root.path().join("bin/busybox")).unwrap();
    let mut tar = Command::new("tar");
    let mut tar = tar.arg("-C").arg(root.path()).args(["-c", "bin"]).stdout(Stdio::piped()).spawn().unwrap();
    let imported = docker()
        .args(["import", "--change", r#"ENTRYPOINT ["/bin/busybox"]"#, "-", IMAGE])
        .stdin(tar.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(tar.wait().unwrap().success());
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
}

/// What a program prints; what it fails with is of no interest.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(testkit::programs::program(program)).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits for a notice that will do.
pub(crate) async fn noticed<T>(
    notices: &mut Receiver<Notice>,
    mut wanted: impl FnMut(&Notice) -> Option<T>,
) -> T {
    let mut others = Vec::new();
    let look = async {
        while let Some(notice) = notices.recv().await {
            if let Some(found) = wanted(&notice) {
                return Some(found);
            }
            others.push(notice);
        }
        None
    };
    let found = tokio::time::timeout(SOON, look).await.ok().flatten();
    found.unwrap_or_else(|| panic!("no such notice among {others:?}"))
}

pub(crate) fn tcp(port: u16) -> (Port, Transport) {
    (Port::try_from(u64::from(port)).unwrap(), Transport::Tcp)
}

pub(crate) fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}
