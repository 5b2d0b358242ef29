//! Columns: as wide as their widest cell, two spaces between, nothing after the last.

use unicode_width::UnicodeWidthStr;

use super::{Paint, Style, harmless};

/// A text in a column.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn painted(paint: Paint, text: impl Into<String>) -> Self {
        Self { text: harmless(&text.into()), paint }
    }

    /// The text alone, outside of a table.
    pub(crate) fn text(&self, style: &Style) -> String {
        style.paint(self.paint, &self.text)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::painted(Paint::Plain, text)
    }
}

/// Rows under a head.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with a head.
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.into_iter().map(|text| Cell::painted(Paint::Faint, text)).collect()] }
    }

    /// A table without one: lines of the same kind.
    pub(crate) fn lines() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// The text, one line per row.
    pub(crate) fn render(&self, style: &Style) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let filled = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
            for (column, (cell, width)) in row.iter().zip(&widths).take(filled).enumerate() {
                text += &style.paint(cell.paint, &cell.text);
                if column + 1 < filled {
                    text.extend(std::iter::repeat_n(' ', width - cell.text.width() + 3));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_what_is_seen() {
        let mut table = Table::new(["NAME", "NOTE", "EXPIRES"]);
        table.row(["alice".into(), "größer".into(), "".into()]);
        table.row(["b".into(), "日本".into(), "in 2 days".into()]);
        let text = table.render(&Style::new(false, false));
        assert_eq!(text, "NAME    NOTE     EXPIRES\nalice   größer\nb       日本     in 2 days\n");
    }
}
