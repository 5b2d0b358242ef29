//! Children end with the test, however it ends.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::{path::Path, time::Duration};

use testkit::{process::Process, wait::eventually};

#[test]
fn a_child_dies_with_a_panic() {
    let test = std::thread::spawn(|| {
        let process = Process::start("sleep", ["1000"]);
        std::panic::panic_any(process.pid());
    });
    let pid: u32 = *test.join().unwrap_err().downcast().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// The child must outlive the thread that asked for it, and not the process that did.
#[tokio::test]
async fn a_child_dies_with_the_process_but_not_with_the_thread() {
    let started = std::thread::spawn(|| Process::start("sleep", ["1000"])).join().unwrap();
    eventually("it runs on", Duration::from_secs(5), async || {
        std::fs::read_to_string(format!("/proc/{}/comm", started.pid())).is_ok_and(|comm| comm == "sleep\n")
    })
    .await;

    // A shell that is killed stands for a test process that is: its child asked for the same.
    let script = "setpriv --pdeathsig KILL -- sleep 1000 & echo $!; wait";
    let mut parent = Process::start("sh", ["-c", script]);
    let child = eventually("the child's id", Duration::from_secs(5), async || {
        let pid = parent.log().trim().to_owned();
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()
            .filter(|comm| comm == "sleep\n")
            .map(|_| pid)
    })
    .await;
    parent.kill();
    eventually("the child is gone", Duration::from_secs(5), async || {
        // Without somebody who waits for it, what has been killed stays as a zombie.
        std::fs::read_to_string(format!("/proc/{child}/status"))
            .map_or(true, |status| status.contains("State:\tZ"))
    })
    .await;
}

#[test]
#[should_panic(expected = "run `make setup`")]
fn a_missing_program_says_how_to_install_it() {
    testkit::programs::program("no-such-program");
}
