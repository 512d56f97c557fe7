//! Every example runs to its end and tells its story.

#![cfg(feature = "cli")]

use std::path::PathBuf;
use std::process::Command;

/// Where cargo puts examples: beside the folder of the tests.
fn path_of(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
    // In the virtual machine the tests lie elsewhere, and examples where cargo had put them.
    let here = profile.join("examples").join(example);
    let built = PathBuf::from(env!("CARGO_BIN_EXE_peerbuf"));
    let beside = built.with_file_name("examples").join(example);
    let path = if here.exists() { here } else { beside };
    assert!(path.exists(), "{} is not built; a plain `cargo test` builds it", path.display());
    path
}

fn check(example: &str, says: &str) {
    let output = Command::new(path_of(example)).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {}\n{text}\n{errors}", output.status);
    assert!(text.contains(says), "{example} says {says:?}:\n{text}");
}

#[test]
fn share() {
    check("share", "0 wrong");
}

#[test]
fn move_callback() {
    check("move_callback", "resumes: every byte is right");
}

#[test]
fn two_processes() {
    check("two_processes", "read 1048576 words of the child's, 0 wrong");
}

#[test]
fn adopt() {
    check("adopt", "read 262144 words, 0 wrong");
}
