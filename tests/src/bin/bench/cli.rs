//! `vpn --help`: what every command line pays before it does anything.

use std::process::{Command, Stdio};

use flows::programs::ours;
use testkit::programs::program;

use crate::{
    measure::Pair,
    table::{Goal, Table},
};

const ROUNDS: usize = 101;

pub(crate) fn measure(table: &mut Table) {
    let (vpn, nothing) = (ours("vpn"), program("true"));
    let run = |command: &mut Command| {
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    };
    let pair =
        Pair::in_turns(ROUNDS, || run(Command::new(&vpn).arg("--help")), || run(&mut Command::new(&nothing)));
    let (ours, floor) = pair.ms(50);
    table.add("vpn --help (floor: true)", ours, floor, "ms", Goal::AtMost(10.0));
}
