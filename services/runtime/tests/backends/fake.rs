//! Faults as a test wants them.

use std::time::Duration;

use contract::Code;
use futures::FutureExt as _;
use runtime::backend::{
    ContainerRuntime as _, ContainerState, Notice,
    fake::{Call, Fault},
};

use crate::site::{Site, noticed};

#[tokio::test]
async fn the_nth_call_of_a_kind_fails_before_or_after_its_effect() {
    let site = Site::fake().await;
    let (fake, spec) = (site.fake.clone().unwrap(), site.spec("s1"));
    fake.fault(Call::Create, 1, Fault::Before(Code::RUNTIME_DISK_FULL));
    fake.fault(Call::Create, 2, Fault::After(Code::RUNTIME_BACKEND_TIMEOUT));
    assert_eq!(fake.create(&spec).await.unwrap_err().code, Code::RUNTIME_DISK_FULL);
    assert_eq!(fake.containers(), []);
    assert_eq!(fake.create(&spec).await.unwrap_err().code, Code::RUNTIME_BACKEND_TIMEOUT);
    assert_eq!(fake.containers().len(), 1);
    fake.create(&spec).await.unwrap();
    let server = Some(spec.server.clone());
    assert_eq!(
        fake.calls(),
        [(Call::Create, server.clone()), (Call::Create, server.clone()), (Call::Create, server)]
    );
}

#[tokio::test]
async fn a_call_hangs_until_it_is_let_go() {
    let site = Site::fake().await;
    let (fake, spec) = (site.fake.clone().unwrap(), site.spec("s1"));
    fake.create(&spec).await.unwrap();
    fake.fault(Call::Start, 1, Fault::Hang);
    fake.fault(Call::Start, 2, Fault::Hang);
    // One that nobody waits for any more needs no release.
    assert!(tokio::time::timeout(Duration::from_millis(5), fake.start(&spec)).await.is_err());
    let mut start = std::pin::pin!(fake.start(&spec));
    assert!(start.as_mut().now_or_never().is_none());
    assert_eq!(fake.containers()[0].state, ContainerState::Created);
    fake.release();
    start.await.unwrap();
    assert_eq!(fake.containers()[0].state, ContainerState::Running { pid: 1 });
}

#[tokio::test]
async fn a_daemon_that_is_down_keeps_its_containers_and_loses_its_notices() {
    let site = Site::fake().await;
    let (fake, spec) = (site.fake.clone().unwrap(), site.spec("s1"));
    fake.create(&spec).await.unwrap();
    fake.start(&spec).await.unwrap();
    let mut notices = fake.notices();
    fake.go_down();
    assert_eq!(fake.list().await.unwrap_err().code, Code::RUNTIME_BACKEND_UNREACHABLE);
    assert!(fake.die(&spec.server, 9));
    fake.come_up();
    assert_eq!(noticed(&mut notices, |notice| Some(notice.clone())).await, Notice::Gap);
    assert_eq!(fake.list().await.unwrap()[0].state, ContainerState::Exited { code: 9 });

    // Worse: nobody is told anything.
    fake.start(&spec).await.unwrap();
    noticed(&mut notices, |notice| Some(notice.clone())).await;
    fake.mute(true);
    assert!(fake.die(&spec.server, 9));
    assert!(notices.try_recv().is_err());
}
