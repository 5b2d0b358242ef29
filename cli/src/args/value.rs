//! Values that people write.

use std::{str::FromStr, time::Duration};

use contract::{Code, Invalid, Timestamp};
use jiff::{SignedDuration, Span, SpanRelativeTo, civil::Date, tz::TimeZone};

/// A time to wait: `500ms`, `10s`, `2m`; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let written = if text.bytes().all(|b| b.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    let parsed = written.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    match parsed {
        Some(time) if !time.is_zero() && time <= Duration::from_secs(3600) => Ok(time),
        _ => Err("give a time from 1ms to 1h, such as 500ms or 10s".to_owned()),
    }
}

/// How long ago: `30m`, `2h`, `7d`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let age = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let age = age.and_then(|age| Duration::try_from(age).ok());
    age.filter(|age| !age.is_zero()).ok_or_else(|| "give a while, such as 30m, 2h or 7d".to_owned())
}

/// A moment to come, as people write it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// `2030-01-31T00:00:00Z`, or a date: its midnight, UTC.
    At(Timestamp),
    /// `90d`, `12h`, `1mo`: from now on.
    In(Span),
}

impl Moment {
    /// The moment, seen from `now`.
    pub(crate) fn from(self, now: Timestamp) -> Result<Timestamp, Invalid> {
        match self {
            Self::At(at) => Ok(at),
            Self::In(span) => now
                .to_zoned(TimeZone::UTC)
                .checked_add(span)
                .map(|zoned| zoned.timestamp())
                .map_err(|_| invalid(&format!("{span:#}"), "it lies too far ahead")),
        }
    }
}

impl FromStr for Moment {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        if let Ok(date) = text.parse::<Date>()
            && let Ok(midnight) = date.to_zoned(TimeZone::UTC)
        {
            return Ok(Self::At(midnight.timestamp()));
        }
        let why = "it is neither a time (2030-01-31T00:00:00Z), nor a date (2030-01-31), nor a while (90d, 12h, 1mo)";
        text.parse::<Span>().map(Self::In).map_err(|_| invalid(text, why))
    }
}

fn invalid(text: &str, why: &str) -> Invalid {
    Invalid::new(Code::CLI_USAGE, text, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_write_them() {
        let now: Timestamp = "2026-11-22T14:03:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Moment>().unwrap().from(now).unwrap().to_string();
        assert_eq!(at("90d"), "2027-02-20T14:03:00Z");
        assert_eq!(at("12h"), "2026-11-23T02:03:00Z");
        assert_eq!(at("1mo"), "2026-12-22T14:03:00Z");
        assert_eq!(at("2030-01-31"), "2030-01-31T00:00:00Z");
        assert_eq!(at("2030-01-31T01:00:00+01:00"), "2030-01-31T00:00:00Z");
        for bad in ["", "soon", "90", "2030-02-31", "12:00"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad:?}");
        }
        assert!("9999y".parse::<Moment>().unwrap().from(now).is_err());
    }

    #[test]
    fn times_to_wait() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        for bad in ["", "0", "-1s", "2h", "1d", "later", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
