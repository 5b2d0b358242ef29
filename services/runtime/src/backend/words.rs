//! The last lines that an instance wrote, fit for an error message: few, short, and harmless in a terminal.

/// So many lines, and so many bytes: what a person reads, and what fits into a message on the bus many times.
pub(super) const LINES: usize = 20;
const BYTES: usize = 4096;

/// The end of what was written. Control characters are dropped: programs colour their logs.
pub(super) fn last(written: &[u8]) -> String {
    let text = String::from_utf8_lossy(written);
    let mut kept = Vec::new();
    let mut left = BYTES;
    for line in text.lines().rev().take(LINES) {
        let line = plain(line);
        let Some(rest) = left.checked_sub(line.len() + 1) else { break };
        left = rest;
        kept.push(line);
    }
    if kept.is_empty() && !text.is_empty() {
        // One line that is longer than all there is room for: its end says more than nothing.
        let line = plain(text.trim_end().lines().next_back().unwrap_or_default());
        let start = line.len().saturating_sub(BYTES);
        let start = (start..line.len()).find(|at| line.is_char_boundary(*at)).unwrap_or(line.len());
        return line.get(start..).unwrap_or_default().to_owned();
    }
    kept.reverse();
    kept.join("\n")
}

/// Without control characters and the colour codes that begin with one (ECMA-48 §5.4).
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
        } else if c == '\t' {
            out.push(' ');
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_is_harmless() {
        let log: String = (0..100).map(|n| format!("\u{1b}[31mline {n}\u{1b}[0m\r\n")).collect();
        let words = last(log.as_bytes());
        assert_eq!(words.lines().count(), LINES);
        assert!(words.starts_with("line 80\n") && words.ends_with("line 99"), "{words}");
    }

    #[test]
    fn one_long_line_is_cut_at_its_beginning() {
        let log = format!("{}é end", "é".repeat(10_000));
        let words = last(log.as_bytes());
        assert!(words.len() <= BYTES && words.ends_with("é end"));
        assert_eq!(last(b""), "");
        assert_eq!(last(b"\n\n"), "\n");
    }

    #[test]
    fn many_long_lines_stay_within_the_bytes() {
        let log = "x".repeat(1000).to_owned() + "\n";
        assert!(last(log.repeat(30).as_bytes()).len() <= BYTES);
        assert!(last(&[0xff, 0xfe, b'a']).ends_with('a'));
    }
}
