//! The master key: missing, exposed, damaged, another.

use std::{fs, os::unix::fs::PermissionsExt};

use contract::Code;
use keys::Config;

use crate::world::{Process, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_master_key_that_will_not_do_is_refused_and_nothing_is_overwritten() {
    let world = World::start().await;
    let path = world.master_key_file();
    let fails = async |config: Config, code: Code| {
        let error = Process::start(world.nats.url(), config).fails().await;
        assert_eq!(error.code, code, "{error}");
        assert!(!error.hint.is_empty());
    };
    fails(Config::new(&path), Code::KEYS_MASTER_MISSING).await;
    assert!(!path.exists(), "made only where that was asked for");

    let keys = world.serve().await;
    let before = world.issued(&world.create("alice").await).await;
    keys.stop().await.unwrap();
    world.create("bob").await;
    let good = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    fails(world.config(), Code::KEYS_MASTER_EXPOSED).await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "not a key\n").unwrap();
    fails(world.config(), Code::KEYS_MASTER_MISSING).await;
    assert_eq!(fs::read(&path).unwrap(), b"not a key\n");
    fs::remove_file(&path).unwrap();
    fails(world.config(), Code::KEYS_MASTER_MISSING).await;
    assert!(!path.exists(), "a lost key is not replaced by another");

    let other = world.folder.path().join("other.key");
    seal::MasterKey::load_or_create(&other).unwrap();
    fails(Config::new(&other).creating(), Code::KEYS_SEALED).await;
    assert_eq!(world.credentials.revision().await.unwrap(), 1, "nothing was written meanwhile");

    fs::write(&path, good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let _keys = world.serve().await;
    let held = world.settled().await;
    assert_eq!((held.len(), &held["alice"]), (2, &before));
}
