//! Names that cannot hold a bad value, so that nothing behind the edge checks twice.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Code, Invalid};

/// Declares a text type with its rule: constructed only by parsing, shown and stored as text.
macro_rules! text {
    ($(#[$meta:meta])* $name:ident, $code:expr, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(why) => Err(Invalid::new($code, text, why)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text! {
    /// The name of a user: 1 to 64 of `a-z 0-9 - _`, first a letter or digit.
    UserName, Code::USERS_NAME_INVALID, slug
}
text! {
    /// The name of a server: 1 to 64 of `a-z 0-9 - _`, first a letter or digit.
    ServerName, Code::FLEET_SERVER_NAME_INVALID, slug
}
text! {
    /// The name of a node: 1 to 64 of `a-z 0-9 - _`, first a letter or digit.
    NodeName, Code::FLEET_NODE_NAME_INVALID, slug
}
text! {
    /// A tag on a user: 1 to 64 of `a-z 0-9 - _`, first a letter or digit.
    Tag, Code::USERS_TAG_INVALID, slug
}
text! {
    /// Free text about a user: at most 500 characters, no control or bidirectional marks.
    Note, Code::USERS_NOTE_INVALID, note
}
text! {
    /// A container image: `name:tag` or `name@sha256:…`, at most 255 of the characters that references have.
    ImageRef, Code::FLEET_IMAGE_INVALID, image
}

/// One token of a subject and one part of a path, whatever carries it.
fn slug(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    match text.chars().next() {
        None => Err("it is empty"),
        Some(first) if !(first.is_ascii_lowercase() || first.is_ascii_digit()) => {
            Err("it must start with a lower-case letter or a digit")
        }
        Some(_) if text.len() > 64 => Err("it is longer than 64 characters"),
        Some(_) if !text.chars().all(inner) => Err("only a-z, 0-9, - and _ may be in it"),
        Some(_) => Ok(()),
    }
}

fn note(text: &str) -> Result<(), &'static str> {
    let bidirectional = |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}');
    if text.chars().count() > 500 {
        Err("it is longer than 500 characters")
    } else if text.chars().any(|c| c.is_control() || bidirectional(c)) {
        Err("control characters and marks of text direction may not be in it")
    } else {
        Ok(())
    }
}

fn image(text: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    match text.chars().next() {
        None => Err("it is empty"),
        Some(first) if !first.is_ascii_alphanumeric() => Err("it must start with a letter or a digit"),
        Some(_) if text.len() > 255 => Err("it is longer than 255 characters"),
        Some(_) if !text.chars().all(allowed) => Err("only letters, digits and - _ . / : @ may be in it"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_leave_a_token_or_a_path_is_refused() {
        let long = "a".repeat(10_000);
        for bad in ["", "../etc", "a.b", "a b", "a*", ">", "a\0", "\u{202e}evil", "Alice", "-a", &long] {
            let error = bad.parse::<UserName>().unwrap_err();
            assert_eq!(error.code, Code::USERS_NAME_INVALID, "{bad:?}");
            assert!(error.to_string().len() < 300, "the value is cut short in the error");
        }
    }

    proptest! {
        #[test]
        fn any_accepted_name_is_one_token_of_a_subject(text in ".{0,80}") {
            if let Ok(name) = text.parse::<UserName>() {
                prop_assert!(!name.as_str().contains(['.', '*', '>', ' ', '/', '\\']));
                let json = serde_json::to_string(&name).unwrap();
                prop_assert_eq!(serde_json::from_str::<UserName>(&json).unwrap(), name);
            }
        }

        #[test]
        fn every_slug_is_accepted(text in "[a-z0-9][a-z0-9_-]{0,63}") {
            let name = text.parse::<UserName>().unwrap();
            prop_assert_eq!(name.as_str(), text);
        }
    }
}
