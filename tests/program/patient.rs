//! Runs a command again if a step of it took longer than the command's own bounds, which are for machines that are not
//! busy.

use std::process::{Command, Output};

/// How often a command is run. The last output counts, whatever it says.
const RUNS: usize = 6;

/// What the command says of a step that took too long.
const LATE: [&str; 7] = [
    "did not finish within",
    "did not end within",
    "no time was left",
    "no end within 20 s",
    "for lack of time",
    // As `Debug` prints what the examples return.
    "NotProvedYet(Busy",
    "NotProvedYet(OutOfTime",
];

/// The output of a command.
pub(crate) fn output(command: &mut Command) -> Output {
    let mut run = || command.output().expect("the program starts");
    for _ in 1..RUNS {
        let output = run();
        let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        if !texts.iter().any(|text| is_late(text)) {
            return output;
        }
    }
    run()
}

/// Whether the command says that a step took too long.
pub(crate) fn is_late(text: &str) -> bool {
    // A line may be broken where the terminal ends.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    LATE.iter().any(|late| words.contains(late))
}
