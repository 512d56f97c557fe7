//! Every example succeeds and prints the expected output.

use std::path::PathBuf;
use std::process::Command;

use crate::patient;

/// The path of an example. Cargo puts examples beside the folder of the tests.
fn path_of(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
    // In the virtual machine the tests are in another folder, and the examples where cargo had put them.
    let here = profile.join("examples").join(example);
    let built = PathBuf::from(env!("CARGO_BIN_EXE_peerbuf"));
    let beside = built.with_file_name("examples").join(example);
    let path = if here.exists() { here } else { beside };
    assert!(path.exists(), "{} is not built; a plain `cargo test` builds it", path.display());
    path
}

fn check(example: &str, says: &str) -> String {
    let output = patient::output(&mut Command::new(path_of(example)));
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {}\n{text}\n{errors}", output.status);
    assert!(text.contains(says), "{example} says {says:?}:\n{text}");
    text.into_owned()
}

#[test]
fn share() {
    check("share", "0 wrong");
}

#[test]
fn move_callback() {
    let text = check("move_callback", "time (ms)  who        what\n");
    let story: Vec<_> = text
        .lines()
        .skip(1)
        .map(|row| {
            // Right-aligned, three decimals, and two columns of text.
            let (time, rest) = row.split_at_checked(11).expect("a time");
            time.trim().parse::<f64>().unwrap_or_else(|_| panic!("a time: {row}"));
            let (who, what) = rest.split_at_checked(11).expect("an importer");
            (who.trim_end(), what)
        })
        .collect();
    let at = |row: (&str, &str)| {
        story
            .iter()
            .position(|(who, what)| *who == row.0 && what.starts_with(row.1))
            .unwrap_or_else(|| panic!("{row:?} is not in\n{text}"))
    };
    let order = [
        ("frame", "written"),
        ("fence", "notified; still reading"),
        ("fence", "stops reading"),
        ("frame", "moved, in system memory"),
        ("refault", "maps generation 1: every byte is right"),
        ("fence", "resumes: every byte is right"),
        ("revocable", "notified of the revocation"),
        ("revocable", "drops its mapping"),
        ("refault", "frame is revoked"),
        ("frame", "revoked"),
        ("refault", "available and mapped again: every byte is right"),
    ];
    let places = order.map(at);
    assert!(places.is_sorted(), "{places:?} in\n{text}");
}

#[test]
fn two_processes() {
    check("two_processes", "read 1048576 words of the child's, 0 wrong");
}

#[test]
fn adopt() {
    check("adopt", "read 262144 words, 0 wrong");
}

#[test]
fn overcommit() {
    let text = check("overcommit", "0 words wrong");
    let row = |begin: &str| {
        let row = text.lines().find(|row| row.starts_with(begin));
        row.unwrap_or_else(|| panic!("no {begin:?} in\n{text}"))
    };
    assert!(row("32 tiles").contains("budget 8388608"), "{text}");
    // 8 of 32 tiles fit. Tiles are restored when they are used.
    for (cause, least) in [("evicted: ", 24), ("returned: ", 1)] {
        let times = row(cause)[cause.len()..].split(' ').next().and_then(|n| n.parse::<u32>().ok());
        assert!(times >= Some(least), "{times:?} {cause}\n{text}");
    }
    // One of them explains its domain.
    row("tile 0 is in ");
}
