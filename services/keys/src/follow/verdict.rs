//! What a change under a name means for what stands there.

use std::collections::BTreeMap;

use bus::{Change, Entry};

/// What we keep under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<I> {
    /// Nothing, ever.
    Never,
    /// Nothing any more.
    Gone,
    /// Something for whoever this is.
    For(I),
}

/// What is said about a name: who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said<I> {
    /// Who; none where it was deleted.
    pub who: Option<I>,
    /// As of which revision.
    pub revision: u64,
    /// Whether it was looked at just now, rather than told by a change that may be an old one.
    pub sure: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<I> {
    /// Nothing.
    Leave,
    /// Make what whoever this is needs, in the place of what stands.
    Make(I),
    /// Destroy what stands.
    Destroy,
    /// Find out who has the name now, then ask again.
    Look,
}

/// What `said` means for what stands.
pub fn verdict<I: Copy + Eq>(standing: Standing<I>, said: Said<I>) -> Verdict<I> {
    match (standing, said.who) {
        (Standing::Never | Standing::Gone, None) => Verdict::Leave,
        (Standing::For(held), Some(who)) if held == who => Verdict::Leave,
        // Under a name that never had anything the change cannot be one that already had its effect.
        (Standing::Never, Some(who)) => Verdict::Make(who),
        _ if !said.sure => Verdict::Look,
        (_, Some(who)) => Verdict::Make(who),
        (_, None) => Verdict::Destroy,
    }
}

/// The last that is said about each name.
pub fn fold<S, I>(changes: Vec<Change<S>>, who: impl Fn(&S) -> I) -> BTreeMap<String, Said<I>> {
    let said = |change: Change<S>| {
        let said =
            Said { who: change.entry.value.as_ref().map(&who), revision: change.entry.revision, sure: false };
        (change.key, said)
    };
    changes.into_iter().map(said).collect()
}

impl<I> Said<I> {
    /// Takes what a look found. A replica of the bus that lags may show less than the change has said already.
    pub fn looked<S>(&mut self, found: Option<Entry<S>>, who: impl Fn(&S) -> I) {
        if let Some(found) = found.filter(|found| found.revision > self.revision) {
            (self.who, self.revision) = (found.value.as_ref().map(who), found.revision);
        }
        self.sure = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A name's history: who had it from each revision on.
    fn histories() -> impl Strategy<Value = Vec<Option<u64>>> {
        prop::collection::vec(any::<bool>(), 1..8).prop_map(|steps| {
            let (mut next, mut history) = (0, Vec::<Option<u64>>::new());
            for create in steps {
                let had = history.last().copied().flatten();
                history.push(match (had, create) {
                    (Some(_), false) => None,
                    (Some(who), true) => Some(who), // an update
                    (None, _) => {
                        next += 1;
                        Some(next)
                    }
                });
            }
            history
        })
    }

    proptest! {
        /// However a history is cut into batches and how often parts of it come again: in the end there is what
        /// the last owner needs, and the last owner's is made once.
        #[test]
        fn redelivery_changes_nothing(history in histories(), cuts in prop::collection::vec((0_usize..8, 0_usize..8), 0..6)) {
            let mut made = Vec::new();
            let mut standing = Standing::Never;
            let mut deliver = |standing: &mut Standing<u64>, last: usize, known: usize| {
                let mut said = Said { who: history[last], revision: last as u64 + 1, sure: false };
                loop {
                    match verdict(*standing, said) {
                        Verdict::Leave => break,
                        Verdict::Make(who) => { made.push(who); *standing = Standing::For(who); break }
                        Verdict::Destroy => { *standing = Standing::Gone; break }
                        Verdict::Look => {
                            assert!(!said.sure, "a look is enough");
                            let now = Entry { value: history[known], revision: known as u64 + 1 };
                            said.looked(Some(now), |who| *who);
                        }
                    }
                }
            };
            // Each delivery ends a batch at some change, while the bucket may already hold later ones. What was
            // delivered once is in the bucket from then on.
            let mut known = 0;
            for (last, ahead) in cuts {
                let last = last.min(history.len() - 1);
                known = known.max(last + ahead).min(history.len() - 1);
                deliver(&mut standing, last, known);
            }
            let end = history.len() - 1;
            for last in 0..=end {
                deliver(&mut standing, last, end);
            }
            let owner = history[end];
            prop_assert_eq!(standing, owner.map_or(standing, Standing::For));
            prop_assert!(owner.is_some() || !matches!(standing, Standing::For(_)));
            if let Some(owner) = owner {
                prop_assert_eq!(made.iter().filter(|who| **who == owner).count(), 1);
            }
        }
    }
}
