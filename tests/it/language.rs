//! Plain language: sentences name their actors.

use std::fs;
use std::path::{Path, PathBuf};

use crate::server::Place;
use crate::tool::{help_of_commands, run};

/// Subjects without a noun, and other phrases that hide the actor.
const VAGUE: [&str; 10] = [
    "whoever",
    "whomever",
    "whatever",
    "somebody",
    "someone who",
    "nobody",
    "of whom",
    "who is",
    "who has",
    "that can't be",
];

/// Files and folders that are held to this.
const PLAIN: [&str; 9] = [
    "README.md",
    "docs/forward-auth.md",
    "docs/openapi.json",
    "docs/operations.md",
    "docs/performance.md",
    "docs/provisioning.md",
    "docs/requirements.md",
    "docs/security.md",
    "src/cli",
];

/// Returns the lines with one of the phrases, each after its name.
fn vague(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let found = lines.filter(|(_, line)| {
        let words = line.to_lowercase();
        let words: Vec<_> = words.split(|c: char| !c.is_alphanumeric() && c != '\'').collect();
        let line = format!(" {} ", words.join(" "));
        VAGUE.iter().any(|phrase| line.contains(&format!(" {phrase} ")))
    });
    found.map(|(n, line)| format!("{name}:{}: {}", n + 1, line.trim())).collect()
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).collect()
}

#[test]
fn pages_and_comments_name_their_actors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found: Vec<_> = PLAIN
        .iter()
        .flat_map(|name| files(&root.join(name)))
        .flat_map(|file| vague(&file.to_string_lossy(), &fs::read_to_string(&file).unwrap()))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn help_names_its_actors() {
    let home = Place::new();
    let mut found = vague("resttool --help", &run(home.folder(), "--help", "").stdout);
    for (name, help) in help_of_commands(home.folder()) {
        found.extend(vague(&format!("resttool {name} --help"), &help));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn vague_subjects_are_found() {
    let text = "A client\nNobody else notices.\nsomebodyish\nUsers who are in\n(whoever asks)";
    assert_eq!(vague("x", text), ["x:2: Nobody else notices.", "x:5: (whoever asks)"]);
}
