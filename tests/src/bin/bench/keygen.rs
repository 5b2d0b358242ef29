//! One user's credentials for all protocols, sealed; the floor is the bare key pair and the random bytes in them.

use std::hint::black_box;

use contract::{Timestamp, users::UserId};
use keys::{
    issue::{Issue, credentials},
    keyring::Keyring,
    places::Places,
};
use seal::{MasterKey, random};
use uuid::Uuid;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::{
    measure::Pair,
    table::{Goal, Table},
};

const ROUNDS: usize = 25;
/// Of one round, so that the clock's own cost is nothing.
const AT_ONCE: usize = 200;

pub(crate) fn measure(table: &mut Table) {
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::of(&MasterKey::load_or_create(&folder.path().join("master.key")).unwrap());
    let address = Places::default().take().unwrap();
    let user: contract::UserName = "bench".parse().unwrap();
    let now = Timestamp::now();
    let ours = || {
        for _ in 0..AT_ONCE {
            let user_id = UserId(Uuid::now_v7());
            let issue = Issue { user: user.clone(), user_id, generation: 1, address, shadowsocks_2022: None };
            black_box(credentials(&keyring, issue, now).unwrap());
        }
    };
    let floor = || {
        for _ in 0..AT_ONCE {
            let private = StaticSecret::from(*random::<32>().unwrap());
            black_box(PublicKey::from(&private));
            black_box((random::<16>().unwrap(), random::<16>().unwrap(), random::<32>().unwrap()));
        }
    };
    let pair = Pair::in_turns(ROUNDS, ours, floor);
    let (ours, floor) = pair.ms(50);
    let each = |of_all: f64| of_all * 1000.0 / AT_ONCE as f64;
    table.add("credentials of one user (floor: x25519 + random)", each(ours), each(floor), "µs", Goal::None);
}
