//! The docs: plain language, links, and short help.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::cli::{command, finish, help_of_commands, run};
use crate::support::store::TempStore;

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

/// Texts that are checked.
const TEXTS: [&str; 8] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs",
    "justfile",
    "deny.toml",
    "tests/cmd/README.md",
];

/// Sources whose comments are checked.
const SOURCES: [&str; 7] =
    ["src", "tests", "benches", "fuzz/targets", "fuzz/run", ".ci/run", "Cargo.toml"];

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

/// Returns the lines with an example like "as 10/1m" instead of "e.g. 10/1m".
fn examples_without_eg(name: &str, text: &str) -> Vec<String> {
    let is_example = |line: &str| {
        let words: Vec<_> = line.split_whitespace().map(|word| word.trim_matches('`')).collect();
        words.windows(2).any(|pair| {
            let number = pair[1].starts_with(|c: char| c.is_ascii_digit());
            pair[0] == "as" && number && pair[1].contains(['/', '-'])
        })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_example(line));
    lines.map(|(n, line)| format!("{name}:{}: {}", n + 1, line.trim())).collect()
}

/// Replaces everything but comments by empty lines.
fn comments(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let code = line.trim_start();
        let comment = code.starts_with("//") || code.starts_with('#') && !code.starts_with("#[");
        if comment { line } else { "" }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).collect()
}

#[test]
fn docs_and_comments_name_their_actors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for file in TEXTS.iter().flat_map(|name| files(&root.join(name))) {
        let (name, text) = (file.to_string_lossy(), fs::read_to_string(&file).unwrap());
        found.extend(vague(&name, &text));
        found.extend(examples_without_eg(&name, &text));
    }
    for file in SOURCES.iter().flat_map(|name| files(&root.join(name))) {
        let (name, text) = (file.to_string_lossy(), fs::read_to_string(&file).unwrap());
        if !name.ends_with("docs.rs") {
            found.extend(vague(&name, &comments(&text)));
            found.extend(examples_without_eg(&name, &comments(&text)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn help_names_its_actors() {
    let home = TempStore::new();
    let mut found = vague("resttool --help", &run(home.folder(), "--help", "").stdout);
    for (name, help) in help_of_commands(home.folder()) {
        let name = format!("resttool {name} --help");
        found.extend(vague(&name, &help));
        found.extend(examples_without_eg(&name, &help));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn vague_subjects_are_found() {
    let text = "A client\nNobody else notices.\nsomebodyish\nUsers who are in\n(whoever asks)";
    assert_eq!(vague("x", text), ["x:2: Nobody else notices.", "x:5: (whoever asks)"]);
}

#[test]
fn examples_need_eg() {
    let text = "COUNT/PERIOD as `10/1m`\nthe same as 10 minutes\ne.g. 10/1m\nas 2027-01-31";
    let found = ["x:1: COUNT/PERIOD as `10/1m`", "x:4: as 2027-01-31"];
    assert_eq!(examples_without_eg("x", text), found);
}

#[test]
fn comments_are_found_in_sources() {
    assert_eq!(comments("let nobody = 1; // a\n  // Nobody\n#[test]\n# b"), "\n  // Nobody\n\n# b");
}

/// Returns the anchors of a page, as GitHub makes them of its headings.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Returns the targets of the links of a page.
fn links(page: &str) -> Vec<&str> {
    let links = page.split("](").skip(1);
    links.filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).collect()
}

#[test]
fn links_of_the_docs_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs"];
    let pages = pages.iter().flat_map(|name| files(&root.join(name)));
    let mut seen = 0;
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let known = || anchors(&fs::read_to_string(&target).unwrap());
            assert!(
                anchor.is_empty() || known().iter().any(|known| known == anchor),
                "{}: {link}",
                page.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    assert_eq!(links("[a](b.md#c) ![d](e.svg)"), ["b.md#c", "e.svg"]);
    assert_eq!(anchors("# A `b` c\ntext\n## D"), ["a-b-c", "d"]);
}

/// The summary of each command, with 80 columns.
#[test]
fn short_help_fits_a_screen() {
    let home = TempStore::new();
    for (name, _) in help_of_commands(home.folder()) {
        let mut short = command(home.folder(), [name.as_str(), "-h"]);
        short.env("COLUMNS", "80");
        let lines = finish(short, "").stdout.lines().count();
        assert!((5..=40).contains(&lines), "{name} -h has {lines} lines");
    }
}

/// Returns the options with a default of a help text, and the defaults.
fn defaults(help: &str) -> Vec<(&str, &str)> {
    let mut option = "";
    let mut found = Vec::new();
    for line in help.lines().map(str::trim) {
        if let Some(name) = line.split(' ').find(|word| word.starts_with("--"))
            && (line.starts_with("--") || line.starts_with('-'))
        {
            option = name;
        }
        // A default in words is a part of the description.
        let default = line.strip_prefix("[default: ").and_then(|rest| rest.strip_suffix(']'));
        found.extend(default.map(|default| (option, default)));
    }
    found
}

/// A default stands once in the code, and the reference says the same.
#[test]
fn reference_has_the_defaults_of_serve() {
    let home = TempStore::new();
    let help = run(home.folder(), "serve --help", "").stdout;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/commands.md")).unwrap();
    let (_, page) = page.split_once("\n## Server\n").unwrap();
    let defaults = defaults(&help);
    assert!(defaults.len() > 10, "{defaults:?}");
    for (option, default) in defaults {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{option}")));
        let row = row.unwrap_or_else(|| panic!("{option} has no row"));
        let cell = row.split(" | ").nth(1).unwrap();
        assert_eq!(cell, default.trim_matches('"'), "{option}");
    }
}
