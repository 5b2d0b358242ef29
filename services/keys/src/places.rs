//! The users' places in the WireGuard subnets: which are taken, and the next free one.

use contract::WireguardAddress;

/// Places that are taken, one bit each: half a megabyte when all four million are.
#[derive(Debug, Default)]
pub struct Places {
    taken: Vec<u64>,
    /// One after the last that was given out. A place that became free is not given out again before the end
    /// has been reached, so that an address in an old log or file is rarely somebody else's by now.
    next: u32,
}

impl Places {
    /// Takes this place; says whether it was free.
    pub fn mark(&mut self, address: WireguardAddress) -> bool {
        let (word, bit) = position(address.place());
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        let Some(word) = self.taken.get_mut(word) else { return false };
        let free = *word & bit == 0;
        *word |= bit;
        self.next = self.next.max(address.place() + 1);
        free
    }

    /// Takes the next free place; none when all are taken.
    pub fn take(&mut self) -> Option<WireguardAddress> {
        let start = self.next.clamp(WireguardAddress::FIRST, WireguardAddress::LAST);
        let round = (start..=WireguardAddress::LAST).chain(WireguardAddress::FIRST..start);
        let place = round.into_iter().find(|place| !self.is_taken(*place))?;
        let address = WireguardAddress::new(place)?;
        self.mark(address);
        self.next = place + 1;
        Some(address)
    }

    /// Gives a place back.
    pub fn free(&mut self, address: WireguardAddress) {
        let (word, bit) = position(address.place());
        if let Some(word) = self.taken.get_mut(word) {
            *word &= !bit;
        }
    }

    fn is_taken(&self, place: u32) -> bool {
        let (word, bit) = position(place);
        self.taken.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn position(place: u32) -> (usize, u64) {
    ((place / 64) as usize, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(place: u32) -> WireguardAddress {
        WireguardAddress::new(place).unwrap()
    }

    #[test]
    fn the_end_is_followed_by_what_became_free() {
        let mut places = Places::default();
        assert_eq!(places.take(), Some(address(WireguardAddress::FIRST)));
        assert!(places.mark(address(WireguardAddress::LAST - 1)));
        assert_eq!(places.take(), Some(address(WireguardAddress::LAST)));
        assert_eq!(places.take(), Some(address(WireguardAddress::FIRST + 1)), "round again");
        assert!(!places.mark(address(WireguardAddress::LAST)), "taken");
    }

    #[test]
    fn when_all_are_taken_there_is_none() {
        let mut places = Places { taken: vec![u64::MAX; (1 << 22) / 64], next: 77 };
        assert_eq!(places.take(), None);
        places.free(address(5));
        assert_eq!(places.take(), Some(address(5)));
        assert_eq!(places.take(), None);
    }

    proptest! {
        /// Whatever comes and goes, nobody is given what somebody has.
        #[test]
        fn no_place_is_given_twice(steps in prop::collection::vec(prop_oneof![3 => Just(None), 2 => (0_usize..64).prop_map(Some)], 0..300)) {
            let (mut places, mut held) = (Places::default(), BTreeSet::new());
            for step in steps {
                match step {
                    None => prop_assert!(held.insert(places.take().unwrap())),
                    Some(nth) => if let Some(leaver) = held.iter().nth(nth).copied() {
                        held.remove(&leaver);
                        places.free(leaver);
                    },
                }
            }
        }
    }
}
