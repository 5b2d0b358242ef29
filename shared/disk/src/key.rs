//! Keys as bytes whose order is that of the keys.

use contract::{NodeName, ServerName};
use uuid::Uuid;

/// What rows are found by.
pub trait Key {
    /// As bytes, in the order of the keys.
    fn bytes(&self) -> Vec<u8>;

    /// Back from bytes; none where they are no such key.
    fn read(bytes: &[u8]) -> Option<Self>
    where
        Self: Sized;
}

impl Key for () {
    fn bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

macro_rules! numbers {
    ($($number:ty)+) => {
        $(impl Key for $number {
            fn bytes(&self) -> Vec<u8> {
                self.to_be_bytes().to_vec()
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_be_bytes)
            }
        })+
    };
}

numbers! { u64 u128 }

macro_rules! texts {
    ($($text:ty)+) => {
        $(impl Key for $text {
            fn bytes(&self) -> Vec<u8> {
                self.to_string().into_bytes()
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                std::str::from_utf8(bytes).ok()?.parse().ok()
            }
        })+
    };
}

texts! { String NodeName ServerName }

impl Key for Uuid {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_slice(bytes).ok()
    }
}

/// The first has a length of its own, so nothing stands between the two.
impl<S: Key> Key for (u128, S) {
    fn bytes(&self) -> Vec<u8> {
        [self.0.bytes(), self.1.bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_at_checked(size_of::<u128>())?;
        Some((Key::read(first)?, Key::read(second)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_keep_their_order(a: (u128, String), b: (u128, String), x: u64, y: u64) {
            prop_assert_eq!(a.bytes().cmp(&b.bytes()), a.cmp(&b));
            prop_assert_eq!(x.bytes().cmp(&y.bytes()), x.cmp(&y));
            prop_assert_eq!(<(u128, String)>::read(&a.bytes()), Some(a));
        }
    }
}
