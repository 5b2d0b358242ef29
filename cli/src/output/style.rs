//! Colours, times and bytes as people read them.

use contract::{ByteCount, Timestamp};

/// What a text means, shown by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it is.
    Plain,
    /// Worth a look.
    Strong,
    /// Less important than the rest.
    Faint,
    /// As it should be.
    Good,
    /// Not quite.
    Warn,
    /// Not as it should be.
    Bad,
}

/// How results are dressed: for a terminal, or for a file that people read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    terminal: bool,
    colour: bool,
    now: Timestamp,
}

impl Style {
    pub(crate) fn new(terminal: bool, colour: bool) -> Self {
        Self { terminal, colour, now: Timestamp::now() }
    }

    /// Whether colours may be used.
    pub(crate) fn has_colour(&self) -> bool {
        self.colour
    }

    /// The text in its colour, where there are colours.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            Paint::Strong => "1",
            Paint::Faint => "2",
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "1;31",
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// `in 12 days`, `3 s ago`; RFC 3339 where no person watches.
    pub(crate) fn moment(&self, at: Timestamp) -> String {
        if self.terminal { relative(at, self.now) } else { at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() }
    }
}

/// Decimal units, without needless zeros: `50 GB`, `1.5 MB`.
pub(crate) fn bytes(count: ByteCount) -> String {
    count.to_string().replace(".0 ", " ")
}

fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.as_second() - now.as_second();
    let (amount, unit) = match seconds.unsigned_abs() {
        0 => return "now".to_owned(),
        s @ 1..120 => (s, "s"),
        s @ 120..7_200 => ((s + 30) / 60, "min"),
        s @ 7_200..172_800 => ((s + 1_800) / 3_600, "hours"),
        s => ((s + 43_200) / 86_400, "days"),
    };
    if seconds > 0 { format!("in {amount} {unit}") } else { format!("{amount} {unit} ago") }
}

/// Text from elsewhere, without what a terminal would obey or be confused by.
pub(crate) fn harmless(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        let now: Timestamp = "2026-11-22T14:03:00Z".parse().unwrap();
        let seen = |text: &str| relative(text.parse().unwrap(), now);
        assert_eq!(seen("2026-11-22T14:03:00Z"), "now");
        assert_eq!(seen("2026-11-22T14:02:57Z"), "3 s ago");
        assert_eq!(seen("2026-11-22T14:33:00Z"), "in 30 min");
        assert_eq!(seen("2026-11-24T13:03:00Z"), "in 47 hours");
        assert_eq!(seen("2027-02-20T14:02:59Z"), "in 90 days", "what was 90 days a second ago");
        assert_eq!(seen("2026-12-04T15:00:00Z"), "in 12 days");
        assert_eq!(seen("2026-08-22T14:03:00Z"), "92 days ago");
    }

    #[test]
    fn terminals_are_safe() {
        assert_eq!(harmless("a\u{1b}[2Jb\u{202e}c\u{7}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        assert_eq!(harmless("größer ✓"), "größer ✓");
    }

    #[test]
    fn amounts_for_people() {
        assert_eq!(bytes("50GB".parse().unwrap()), "50 GB");
        assert_eq!(bytes("1500kB".parse().unwrap()), "1.5 MB");
    }
}
