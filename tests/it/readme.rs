//! The commands of the README, run without the build, on another port and with another home.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::cli::{ServerProcess, finish};
use crate::support::store::TempStore;

#[test]
#[ignore = "needs curl"]
fn readme_session_prints_the_documented_output() {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let block = |kind: &str| {
        let (_, block) = readme.split_once(&format!("\n```{kind}\n")).unwrap();
        block.split_once("\n```").unwrap().0.to_owned()
    };
    let home = TempStore::new();
    let shell = |line: &str| {
        let line = line.replace("target/release/resttool", env!("CARGO_BIN_EXE_resttool"));
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &line])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.folder());
        shell
    };

    let start = block("sh");
    assert_eq!(start.lines().count(), 1, "one line to copy");
    let start = start.strip_prefix("cargo build --release && ").unwrap();
    // exec: the end of the shell's process is that of the server.
    let (add, serve) = start.rsplit_once(" && ").unwrap();
    let serve = serve.replace("--port 5000", "--port 0");
    let serving = ServerProcess::start(shell(&format!("{add} && exec {serve}")));

    let walk = block("console").replace("127.0.0.1:5000", &serving.address.to_string());
    let steps: Vec<_> = walk.trim_start_matches("$ ").split("\n$ ").collect();
    assert_eq!(steps.len(), 5);
    for step in steps {
        let (line, printed) = step.split_once('\n').unwrap();
        let line = line.replace("curl", "curl -sS");
        let outcome = finish(shell(&line), "");
        assert_eq!(outcome.code, 0, "{line}: {}", outcome.stderr);
        assert_eq!((outcome.stdout + &outcome.stderr).trim_end(), printed, "{line}");
    }
}
