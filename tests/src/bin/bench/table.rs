//! Rows, their goals, and how they are shown.

use std::{fs, path::Path};

use serde::Serialize;

/// What is to be reached.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// At most so many times the floor.
    Ratio(f64),
    /// At most so much, in the row's unit.
    AtMost(f64),
    /// Nothing is promised.
    None,
}

/// One measurement.
#[derive(Serialize)]
pub(crate) struct Row {
    name: String,
    ours: f64,
    floor: f64,
    ratio: f64,
    unit: &'static str,
    goal: Option<String>,
    /// None where nothing is promised.
    met: Option<bool>,
}

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a row, and says so: the whole takes minutes.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        ours: f64,
        floor: f64,
        unit: &'static str,
        goal: Goal,
    ) {
        let ratio = ours / floor;
        let (goal, met) = match goal {
            Goal::Ratio(most) => (Some(format!("≤ {most} × floor")), Some(ratio <= most)),
            Goal::AtMost(most) => (Some(format!("≤ {most} {unit}")), Some(ours <= most)),
            Goal::None => (None, None),
        };
        let (ours, floor, ratio) = (rounded(ours), rounded(floor), rounded(ratio));
        let row = Row { name: name.into(), ours, floor, ratio, unit, goal, met };
        println!("{}", line(&row));
        self.0.push(row);
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.0
    }

    /// The whole table, once more in one piece.
    pub(crate) fn print(&self) {
        println!("\n{:<58} {:>9} {:>9} {:>7}  {:<4} goal", "", "ours", "floor", "ratio", "unit");
        for row in &self.0 {
            println!("{}", line(row));
        }
        let missed = self.0.iter().filter(|row| row.met == Some(false)).count();
        println!("{missed} of {} goals missed", self.0.iter().filter(|row| row.met.is_some()).count());
    }

    /// One object a line, in one array.
    pub(crate) fn write(&self, path: &Path) {
        let rows: Vec<String> = self.0.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        fs::write(path, format!("[\n{}\n]\n", rows.join(",\n"))).unwrap();
    }
}

fn line(row: &Row) -> String {
    let goal = match (&row.goal, row.met) {
        (Some(goal), Some(true)) => goal.clone(),
        (Some(goal), _) => format!("{goal}   MISSED"),
        (None, _) => String::new(),
    };
    let Row { name, ours, floor, ratio, unit, .. } = row;
    format!("{name:<58} {ours:>9} {floor:>9} {ratio:>7}  {unit:<4} {goal}")
}

/// Three digits that mean something.
fn rounded(value: f64) -> f64 {
    let places = match value.abs() {
        100.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let scale = 10_f64.powi(places);
    (value * scale).round() / scale
}
