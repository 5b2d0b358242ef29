//! What every backend keeps.

use std::{net::TcpListener, time::Duration};

use contract::{Code, ServerName, runtime::ContainerEventKind};
use runtime::backend::{ContainerState, Error, Notice};
use testkit::{ports, wait::eventually};

use crate::site::{SOON, Site, image, noticed, tcp};

/// Runs each promise on each backend.
macro_rules! promises {
    ($($promise:ident)+) => {
        mod fake { $(#[tokio::test] async fn $promise() { super::$promise(super::Site::fake().await).await; })+ }
        mod process { $(#[tokio::test] async fn $promise() { super::$promise(super::Site::process().await).await; })+ }
        mod docker { $(#[tokio::test] async fn $promise() { super::$promise(super::Site::docker().await).await; })+ }
    };
}

promises! {
    a_life_is_told
    everything_may_be_said_twice
    another_revision_stays_and_is_a_conflict
    exit_codes_are_seen
    many_at_once
    one_server_at_once_is_one_instance
    a_held_port_is_refused_until_it_is_free
    what_it_is_made_of_is_missing
    last_words_are_kept
    nodes_do_not_see_each_other
    listeners_come_and_go
}

const GRACE: Duration = Duration::from_secs(10);

fn code<T>(result: Result<T, Error>) -> Code {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.code,
    }
}

async fn kind(notices: &mut tokio::sync::mpsc::Receiver<Notice>, server: &ServerName) -> ContainerEventKind {
    noticed(notices, |notice| match notice {
        Notice::Container { server: whose, kind, traceparent } if whose == server => {
            assert!(
                traceparent.as_ref().is_some_and(|parent| parent.starts_with("00-0af7")),
                "{traceparent:?}"
            );
            Some(*kind)
        }
        _ => None,
    })
    .await
}

async fn a_life_is_told(site: Site) {
    let spec = site.spec("s1");
    let mut notices = site.backend.notices();
    assert_eq!(site.backend.list().await.unwrap(), []);

    site.backend.create(&spec).await.unwrap();
    let made = site.found(&spec.server).await.unwrap();
    assert_eq!(made.state, ContainerState::Created);
    assert_eq!(
        (made.server_id, &made.revision, &made.traceparent),
        (spec.server_id, &spec.revision, &spec.traceparent)
    );
    assert_eq!(kind(&mut notices, &spec.server).await, ContainerEventKind::Created);

    for _ in 0..2 {
        let pid = site.up(&spec).await;
        if site.fake.is_none() {
            assert!(std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists());
        }
        assert_eq!(kind(&mut notices, &spec.server).await, ContainerEventKind::Started);

        site.backend.stop(&spec.server, GRACE).await.unwrap();
        assert_eq!(site.state(&spec.server).await, Some(ContainerState::Exited { code: 0 }));
        assert_eq!(kind(&mut notices, &spec.server).await, ContainerEventKind::Exited(0));
    }

    site.up(&spec).await;
    site.backend.remove(&spec.server).await.unwrap();
    assert_eq!(site.backend.list().await.unwrap(), []);
    assert_eq!(kind(&mut notices, &spec.server).await, ContainerEventKind::Started);
    assert_eq!(kind(&mut notices, &spec.server).await, ContainerEventKind::Exited(137));
    assert_eq!(kind(&mut notices, &spec.server).await, ContainerEventKind::Removed);
}

async fn everything_may_be_said_twice(site: Site) {
    let spec = site.spec("s1");
    site.backend.stop(&spec.server, GRACE).await.unwrap();
    site.backend.remove(&spec.server).await.unwrap();
    assert_eq!(code(site.backend.start(&spec).await), Code::RUNTIME_INSTANCE_MISSING);
    assert_eq!(code(site.backend.last_words(&spec.server).await), Code::RUNTIME_INSTANCE_MISSING);

    site.backend.create(&spec).await.unwrap();
    site.backend.create(&spec).await.unwrap();
    site.backend.stop(&spec.server, GRACE).await.unwrap();
    assert_eq!(site.state(&spec.server).await, Some(ContainerState::Created), "stopping what never ran");
    let pid = site.up(&spec).await;
    site.backend.start(&spec).await.unwrap();
    site.backend.create(&spec).await.unwrap();
    assert_eq!(site.pid(&spec.server).await, pid, "still the first one");
    site.backend.stop(&spec.server, GRACE).await.unwrap();
    site.backend.stop(&spec.server, GRACE).await.unwrap();
    site.backend.create(&spec).await.unwrap();
    assert_eq!(site.state(&spec.server).await, Some(ContainerState::Exited { code: 0 }));
    site.backend.remove(&spec.server).await.unwrap();
    site.backend.remove(&spec.server).await.unwrap();
    // The name is free at once.
    site.up(&spec).await;
    site.backend.remove(&spec.server).await.unwrap();
}

async fn another_revision_stays_and_is_a_conflict(site: Site) {
    let spec = site.spec("s1");
    let pid = site.up(&spec).await;
    let mut newer = spec.clone();
    newer.revision = "2".to_owned();
    assert_eq!(code(site.backend.create(&newer).await), Code::RUNTIME_INSTANCE_CONFLICT);
    let mut later = spec.clone();
    later.server_id = contract::fleet::ServerId(uuid::Uuid::new_v4());
    assert_eq!(code(site.backend.create(&later).await), Code::RUNTIME_INSTANCE_CONFLICT);
    assert_eq!(site.pid(&spec.server).await, pid);

    let mut same = spec.clone();
    same.traceparent = None;
    site.backend.create(&same).await.unwrap();

    site.backend.remove(&spec.server).await.unwrap();
    site.backend.create(&newer).await.unwrap();
    assert_eq!(site.found(&spec.server).await.unwrap().revision, "2");
}

async fn exit_codes_are_seen(site: Site) {
    let spec = site.spec("s1");
    let mut notices = site.backend.notices();
    site.up(&spec).await;
    site.end(&spec, 3);
    let exited = noticed(&mut notices, |notice| match notice {
        Notice::Container { kind: ContainerEventKind::Exited(code), .. } => Some(*code),
        _ => None,
    });
    assert_eq!(exited.await, 3);
    // A listener looks again when it is told, and must find what it was told of.
    assert_eq!(site.state(&spec.server).await, Some(ContainerState::Exited { code: 3 }));
}

async fn many_at_once(site: Site) {
    const MANY: usize = 20;
    let specs: Vec<_> = (0..MANY).map(|n| site.spec(&format!("s{n}"))).collect();
    let up = specs.iter().map(async |spec| {
        site.backend.create(spec).await?;
        site.backend.start(spec).await
    });
    for result in futures::future::join_all(up).await {
        result.unwrap();
    }
    let found = site.backend.list().await.unwrap();
    let pids: std::collections::BTreeSet<u32> = found
        .iter()
        .map(|container| match container.state {
            ContainerState::Running { pid } => pid,
            other => panic!("{}: {other:?}", container.server),
        })
        .collect();
    assert_eq!((found.len(), pids.len()), (MANY, MANY));
    let gone = futures::future::join_all(specs.iter().map(|spec| site.backend.remove(&spec.server))).await;
    assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    assert_eq!(site.backend.list().await.unwrap(), []);
}

async fn one_server_at_once_is_one_instance(site: Site) {
    let spec = site.spec("s1");
    let mut notices = site.backend.notices();
    let up = (0..8).map(async |_| {
        site.backend.create(&spec).await?;
        site.backend.start(&spec).await
    });
    for result in futures::future::join_all(up).await {
        result.unwrap();
    }
    site.pid(&spec.server).await;
    site.backend.remove(&spec.server).await.unwrap();
    let mut starts = 0;
    noticed(&mut notices, |notice| match notice {
        Notice::Container { kind: ContainerEventKind::Started, .. } => {
            starts += 1;
            None
        }
        Notice::Container { kind: ContainerEventKind::Removed, .. } => Some(()),
        _ => None,
    })
    .await;
    assert_eq!(starts, 1);
    // And it goes as one, too.
    let gone = futures::future::join_all((0..8).map(|_| site.backend.remove(&spec.server))).await;
    assert!(gone.iter().all(Result::is_ok), "{gone:?}");
}

async fn a_held_port_is_refused_until_it_is_free(site: Site) {
    let port = ports::free();
    let mut spec = site.spec("s1");
    spec.ports = vec![tcp(port)];
    let held = TcpListener::bind(("0.0.0.0", port)).unwrap();
    if let Some(fake) = &site.fake {
        fake.hold_port(spec.ports[0].0, spec.ports[0].1);
    }
    site.backend.create(&spec).await.unwrap();
    let error = site.backend.start(&spec).await.unwrap_err();
    assert_eq!(error.code, Code::RUNTIME_PORT_IN_USE);
    assert!(error.message.contains(&port.to_string()), "{}", error.message);

    drop(held);
    if let Some(fake) = &site.fake {
        fake.release_port(spec.ports[0].0, spec.ports[0].1);
    }
    site.up(&spec).await;
    site.backend.remove(&spec.server).await.unwrap();
}

async fn what_it_is_made_of_is_missing(site: Site) {
    let mut spec = site.spec("s1");
    // A registry that cannot exist (RFC 2606), so that nobody is asked for anything.
    spec.image = image("registry.invalid/nobody/nothing:1");
    spec.program = "no-such-engine".into();
    if let Some(fake) = &site.fake {
        fake.without_image(&spec.image);
    }
    let error = site.backend.create(&spec).await.unwrap_err();
    if site.backend.name() == "process" {
        assert_eq!(error.code, Code::RUNTIME_PROGRAM_MISSING);
        assert!(error.message.contains("no-such-engine"), "{}", error.message);
    } else {
        assert_eq!(error.code, Code::RUNTIME_IMAGE_MISSING);
        let error = site.backend.ensure_image(&spec.image).await.unwrap_err();
        assert_eq!(error.code, Code::RUNTIME_IMAGE_MISSING, "{}", error.message);
    }
    assert_eq!(site.backend.list().await.unwrap(), []);
    site.backend.ensure_image(&site.spec("s2").image).await.unwrap();
}

async fn last_words_are_kept(site: Site) {
    let spec = site.spec_of(
        "s1",
        "i=0; while [ $i -lt 50 ]; do i=$((i + 1)); echo \"line $i\"; done; /bin/busybox sleep 0.3; echo bad >&2; exit 7",
    );
    site.backend.create(&spec).await.unwrap();
    assert_eq!(site.backend.last_words(&spec.server).await.unwrap(), "");
    site.backend.start(&spec).await.unwrap();
    if let Some(fake) = &site.fake {
        let lines: Vec<_> = (32..=50).map(|line| format!("line {line}")).collect();
        fake.says(&spec.server, &format!("{}\nbad", lines.join("\n")));
        fake.die(&spec.server, 7);
    }
    eventually("it ends", SOON, async || {
        site.state(&spec.server).await == Some(ContainerState::Exited { code: 7 })
    })
    .await;
    let words = site.backend.last_words(&spec.server).await.unwrap();
    // What is written to the two streams at once comes in any order; hence the script's pause.
    assert_eq!(words.lines().count(), 20, "{words}");
    assert!(words.starts_with("line 32\n") && words.ends_with("line 50\nbad"), "{words}");
}

async fn nodes_do_not_see_each_other(site: Site) {
    let other = match site.backend.name() {
        "fake" => Site::fake().await,
        "process" => Site::process().await,
        _ => Site::docker().await,
    };
    let mut notices = other.backend.notices();
    site.up(&site.spec("s1")).await;
    let theirs = other.spec("s1");
    assert_eq!(other.backend.list().await.unwrap(), []);
    other.backend.remove(&theirs.server).await.unwrap();
    other.up(&theirs).await;
    site.pid(&theirs.server).await;
    let first = noticed(&mut notices, |notice| Some(notice.clone())).await;
    assert!(matches!(first, Notice::Container { kind: ContainerEventKind::Created, .. }), "{first:?}");
    other.backend.remove(&theirs.server).await.unwrap();
    site.pid(&theirs.server).await;
}

async fn listeners_come_and_go(site: Site) {
    let before = site.tasks.len();
    let spec = site.spec("s1");
    for _ in 0..20 {
        drop(site.backend.notices());
    }
    let mut first = site.backend.notices();
    let mut second = site.backend.notices();
    site.backend.create(&spec).await.unwrap();
    for notices in [&mut first, &mut second] {
        assert_eq!(kind(notices, &spec.server).await, ContainerEventKind::Created);
    }
    drop((first, second));
    eventually("no task is left of any listener", SOON, async || site.tasks.len() <= before).await;
}
