//! Users being created while things die: by single requests and by batches, each asked for until it is answered.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bus::Bus;
use contract::{
    Code, Error, Request, UserName, keys,
    users::{CreateMany, List},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use testkit::wait::eventually;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::world::{Dice, SOON, named};

/// At least so many users, and until the last part was killed.
const USERS: usize = 500;
const ONE_BY_ONE: usize = 6;
const IN_BATCHES: usize = 2;
const BATCH: usize = 10;
/// How long a part may be away before what is asked of it must succeed again.
pub(crate) const RECOVERS_WITHIN: Duration = Duration::from_secs(30);

/// Users being created while things die around it.
pub(crate) struct Creation {
    acknowledged: Arc<Mutex<BTreeSet<UserName>>>,
    /// When something succeeded last.
    last: Arc<Mutex<Instant>>,
    enough: Arc<AtomicBool>,
    creators: JoinSet<()>,
}

impl Creation {
    /// Begins, by single requests and by batches.
    pub(crate) fn begin(bus: &Bus, dice: &Arc<Dice>) -> Self {
        let (acknowledged, last) = (Arc::default(), Arc::new(Mutex::new(Instant::now())));
        let (enough, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut creation = Self { acknowledged, last, enough, creators: JoinSet::new() };
        for creator in 0..ONE_BY_ONE + IN_BATCHES {
            let (bus, dice, next) = (bus.clone(), dice.clone(), next.clone());
            let (acknowledged, last) = (creation.acknowledged.clone(), creation.last.clone());
            let enough = creation.enough.clone();
            creation.creators.spawn(async move {
                let count = if creator < ONE_BY_ONE { 1 } else { BATCH };
                loop {
                    let first = next.fetch_add(count, Ordering::Relaxed);
                    if first >= USERS && enough.load(Ordering::Relaxed) {
                        return;
                    }
                    let users: Vec<_> =
                        (first..first + count).map(|number| named(&format!("u{number:05}"))).collect();
                    let names: Vec<_> = users.iter().map(|user| user.name.clone()).collect();
                    let created = match count {
                        1 => insist(&bus, users.into_iter().next().unwrap()).await.map(drop),
                        _ => insist(&bus, CreateMany { users, batch: Some(Uuid::now_v7()) }).await.map(drop),
                    };
                    match created {
                        Ok(()) => {
                            acknowledged.lock().unwrap().extend(names);
                            *last.lock().unwrap() = Instant::now();
                        }
                        // An earlier try has made it, and its answer was lost.
                        Err(error) => assert_eq!(error.code, Code::USERS_NAME_TAKEN, "{error}"),
                    }
                    // However long it takes: those who come are not to be all that the machine can do.
                    let pause = if first < USERS { 0..40 } else { 0..400 };
                    tokio::time::sleep(dice.millis(pause)).await;
                }
            });
        }
        creation
    }

    /// Waits until something was created after this moment.
    pub(crate) async fn goes_on(&self, since: Instant) {
        let went_on = async || *self.last.lock().unwrap() > since;
        eventually("users are being created again", RECOVERS_WITHIN, went_on).await;
    }

    /// Lets it come to its end; returns who was acknowledged.
    pub(crate) async fn end(mut self) -> Vec<UserName> {
        self.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.creators.join_next().await {
            ended.unwrap();
        }
        let acknowledged = self.acknowledged.lock().unwrap().iter().cloned().collect::<Vec<_>>();
        assert!(acknowledged.len() >= USERS / 2, "{} were acknowledged", acknowledged.len());
        acknowledged
    }
}

/// Asks until there is an answer that is not somebody's death.
pub(crate) async fn insist<R: Request + Clone>(bus: &Bus, request: R) -> Result<R::Reply, Error> {
    let started = Instant::now();
    loop {
        match bus.call_within(request.clone(), Duration::from_secs(2)).await {
            // 5xx: somebody is away.
            Err(error) if error.status() >= 500 && started.elapsed() < 2 * RECOVERS_WITHIN => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Everybody who was acknowledged is there and has credentials; nobody is without.
pub(crate) async fn nobody_is_lost(bus: &Bus, acknowledged: &[UserName]) {
    let mut there = BTreeSet::new();
    let mut after = None;
    loop {
        let list = List { limit: Some(contract::users::PAGE_MAX), after, ..List::default() };
        let page = insist(bus, list).await.unwrap();
        there.extend(page.users.into_iter().map(|user| user.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let lost: Vec<_> = acknowledged.iter().filter(|user| !there.contains(*user)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let since = Instant::now();
    eventually("everybody has credentials", SOON, async || {
        let issued = bus.call(keys::Status {}).await.map_err(|error| error.to_string())?.users;
        if issued == there.len() as u64 {
            return Ok(());
        }
        let links = stream::iter(&there)
            .map(|user| insist(bus, keys::Link { user: user.clone(), server: None }))
            .buffer_unordered(16);
        let without: Vec<_> = links.filter_map(async |link| link.err()).take(3).collect().await;
        Err(format!("{issued} of {}: {without:?}", there.len()))
    })
    .await;
    // The count can be wrong; a link cannot.
    stream::iter(&there)
        .map(|user| insist(bus, keys::Link { user: user.clone(), server: None }))
        .buffer_unordered(16)
        .try_for_each(async |links| {
            assert!(!links.links.is_empty(), "{} has no links", links.user);
            Ok(())
        })
        .await
        .unwrap();
    println!(
        "{} users, {} acknowledged; all have links after {:?}",
        there.len(),
        acknowledged.len(),
        since.elapsed()
    );
}
