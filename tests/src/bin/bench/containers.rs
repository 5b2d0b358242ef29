//! What a container costs through the backend, against the same calls made raw on the daemon's socket, in turns.
//!
//! The raw calls send the very body that the backend sends: it is taken down from the backend first.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use contract::{Port, fleet::ServerId, value::Transport};
use runtime::backend::{
    ContainerRuntime as _, Rights, Spec, detect,
    docker::{Deadlines, Docker, Settings},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};
use tokio_util::task::TaskTracker;

use crate::{
    measure::{Pair, turn},
    table::{Goal, Table},
};

const ROUNDS: usize = 21;
const IMAGE: &str = "vpn-bench-busybox:1";
const SCRIPT: &str = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 60 & wait $!; done";
/// Debian's `docker.io` speaks this one, and so does everything newer.
const API: &str = "v1.41";

pub(crate) async fn measure(table: &mut Table, docker_host: Option<&str>) {
    let socket = detect::docker_socket(docker_host).unwrap();
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    make_image(home.path());

    let spec = spec(home.path());
    let docker = Docker::new(settings(socket.clone()), TaskTracker::new());
    let name = runtime::backend::instance_name(&"bench".parse().unwrap(), &spec.server);
    let body = taken_down(home.path(), &spec).await;
    let (mut create, mut start) = (Pair::default(), Pair::default());
    docker.version().await.unwrap();
    for round in 0..ROUNDS {
        for is_ours in turn(round) {
            let began = Instant::now();
            if is_ours {
                docker.create(&spec).await.unwrap();
            } else {
                raw(&socket, "POST", &format!("/containers/create?name={name}"), &body).await;
            }
            let created = began.elapsed();
            if is_ours {
                docker.start(&spec).await.unwrap();
            } else {
                raw(&socket, "POST", &format!("/containers/{name}/start"), "").await;
            }
            let started = began.elapsed() - created;
            docker.remove(&spec.server).await.unwrap();
            let (create, start) = if is_ours {
                (&mut create.ours, &mut start.ours)
            } else {
                (&mut create.floor, &mut start.floor)
            };
            create.push(created);
            start.push(started);
        }
    }
    for (what, pair) in [("create", create), ("start", start)] {
        let (ours, floor) = pair.ms(50);
        let name = format!("docker: container {what} (floor: the daemon's socket)");
        table.add(name, ours, floor, "ms", Goal::Ratio(1.15));
    }
}

fn settings(socket: PathBuf) -> Settings {
    Settings { node: "bench".parse().unwrap(), socket, deadlines: Deadlines::default() }
}

fn spec(home: &Path) -> Spec {
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    Spec {
        server: "bench".parse().unwrap(),
        server_id: ServerId(uuid::Uuid::from_u128(1)),
        revision: "1".to_owned(),
        image: IMAGE.parse().unwrap(),
        program: "/bin/busybox".into(),
        args: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        env: Vec::new(),
        ports: vec![(Port::try_from(u64::from(port)).unwrap(), Transport::Tcp)],
        run_dir: home.join("run"),
        rights: Rights::None,
        memory: 64 * 1024 * 1024,
        pids: 64,
        traceparent: None,
    }
}

/// The body of the backend's create call: a daemon that only listens.
async fn taken_down(home: &Path, spec: &Spec) -> String {
    let socket = home.join("listens.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let backend = Docker::new(settings(socket), TaskTracker::new());
    let listens = async {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let request = message(&mut connection).await;
            let created = request.starts_with("POST");
            let (status, answer) = if created {
                ("201 Created", r#"{"Id":"1","Warnings":[]}"#)
            } else {
                ("200 OK", r#"{"ApiVersion":"1.41"}"#)
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}",
                answer.len()
            );
            connection.write_all(format!("{head}\r\n\r\n{answer}").as_bytes()).await.unwrap();
            if created {
                return request.split_once("\r\n\r\n").unwrap().1.to_owned();
            }
        }
    };
    let (body, made) = tokio::join!(listens, backend.create(spec));
    made.unwrap();
    body
}

/// One call, as curl makes it.
async fn raw(socket: &Path, method: &str, path: &str, body: &str) {
    let mut connection = UnixStream::connect(socket).await.unwrap();
    let head = format!("{method} /{API}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json");
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    connection.write_all(request.as_bytes()).await.unwrap();
    let answer = message(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}

/// Head and body, by its length.
async fn message(connection: &mut UnixStream) -> String {
    let (mut text, mut buffer) = (String::new(), vec![0; 16 * 1024]);
    loop {
        let read = connection.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if read == 0 || body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

fn make_image(home: &Path) {
    let root = home.join("image/bin");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy("/bin/busybox", root.join("busybox")).expect("busybox-static is missing: run `make setup`");
    let import = format!(
        "docker image inspect {IMAGE} >/dev/null 2>&1 || tar -C {}/image -c bin | docker import --change 'ENTRYPOINT [\"/bin/busybox\"]' - {IMAGE}",
        home.display()
    );
    let made = Command::new("sh").args(["-c", &import]).output().unwrap();
    assert!(made.status.success(), "{}: run `make setup`", String::from_utf8_lossy(&made.stderr));
}
