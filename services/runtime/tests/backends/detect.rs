//! Which backend is chosen.

use std::time::{Duration, Instant};

use contract::Code;
use runtime::backend::{
    detect::{Choice, choose},
    docker::{Deadlines, Settings},
};
use tokio_util::task::TaskTracker;

use crate::site::{Site, docker_settings, process_settings};

#[tokio::test]
async fn docker_where_a_daemon_answers() {
    let site = Site::fake().await;
    let process = process_settings(&site.node, site.state_dir());
    let chosen =
        choose(Choice::Auto, docker_settings(&site.node), process, TaskTracker::new()).await.unwrap();
    assert_eq!(chosen.backend.name(), "docker");
    assert!(chosen.because.contains("answers"), "{}", chosen.because);
}

#[tokio::test]
async fn child_processes_where_none_does() {
    let site = Site::fake().await;
    let home = tempfile::tempdir().unwrap();
    let hanging = home.path().join("hanging.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&hanging).unwrap();
    for (socket, why) in
        [(home.path().join("none.sock"), "no docker socket"), (hanging, "not answered within")]
    {
        let docker = Settings { node: site.node.clone(), socket, deadlines: Deadlines::default() };
        let process = process_settings(&site.node, site.state_dir());
        let started = Instant::now();
        let chosen = choose(Choice::Auto, docker, process, TaskTracker::new()).await.unwrap();
        assert_eq!(chosen.backend.name(), "process");
        assert!(chosen.because.contains(why), "{}", chosen.because);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn what_was_chosen_stays_chosen() {
    let site = Site::fake().await;
    let docker = || {
        let socket = site.state_dir().join("none.sock");
        Settings { node: site.node.clone(), socket, deadlines: Deadlines::default() }
    };
    let mut process = process_settings(&site.node, site.state_dir());
    let chosen = choose(Choice::Docker, docker(), process.clone(), TaskTracker::new()).await.unwrap();
    assert_eq!(chosen.backend.name(), "docker", "also while its daemon is down");
    assert_eq!(chosen.backend.list().await.unwrap_err().code, Code::RUNTIME_BACKEND_UNREACHABLE);
    let chosen = choose(Choice::Process, docker(), process.clone(), TaskTracker::new()).await.unwrap();
    assert_eq!(chosen.backend.name(), "process");

    process.search = vec![site.state_dir().to_owned()];
    let error = choose(Choice::Process, docker(), process, TaskTracker::new()).await.err().unwrap();
    assert_eq!(error.code, Code::RUNTIME_PROGRAM_MISSING);
    assert!(error.message.contains("util-linux"), "{}", error.message);
}
