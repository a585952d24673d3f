//! The transcripts of `tests/cmd`, repeated with trycmd.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Commands that a transcript may use.
const COMMANDS: [&str; 7] = ["cat", "chmod", "cmp", "ls", "printf", "resttool", "test"];

/// Repeats one transcript in a new folder. Panics if an exit code or output differs.
fn replay(transcript: &Path, cmd: &Path) {
    let case = tempfile::tempdir().unwrap();
    let home = case.path().join("home");
    fs::create_dir(&home).unwrap();
    for entry in fs::read_dir(cmd.join("home")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), home.join(entry.file_name())).unwrap();
    }
    let cases = trycmd::TestCases::new();
    cases.case(transcript);
    cases.env("CASE", case.path().to_str().unwrap());
    cases.env("PROGRAM", env!("CARGO_BIN_EXE_resttool"));
    cases.insert_var("[HOME]", home.to_str().unwrap().to_owned()).unwrap();
    for name in COMMANDS {
        symlink(cmd.join("run"), case.path().join(name)).unwrap();
        cases.register_bin(name, case.path().join(name));
    }
    cases.run();
    // trycmd skips unknown commands and blocks of other languages without an error.
    let text = fs::read_to_string(transcript).unwrap();
    let written = text.lines().filter(|line| line.starts_with("$ ")).count();
    let runs = fs::read_to_string(case.path().join("runs")).unwrap_or_default();
    assert!(written > 0, "no command in {}", transcript.display());
    assert_eq!(runs.lines().count(), written, "commands run of {}", transcript.display());
}

#[test]
fn transcripts_match_the_program() {
    let cmd = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd");
    let only = env::args().find_map(|arg| arg.strip_prefix("trycmd=").map(str::to_owned));
    let entries = fs::read_dir(&cmd).unwrap().map(|entry| entry.unwrap().path());
    let transcripts: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "trycmd"))
        .filter(|path| path.to_string_lossy().contains(only.as_deref().unwrap_or_default()))
        .collect();
    assert!(!transcripts.is_empty());
    // One after the other: other tests run beside this one.
    let fails = |path: &&PathBuf| catch_unwind(|| replay(path, &cmd)).is_err();
    let failed: Vec<_> = transcripts.iter().filter(fails).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
