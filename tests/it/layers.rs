//! The layers of `docs/architecture.md`, held against the sources: no arrow points up, and a crate is used
//! in its room alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, the rooms that it may use, and the crates that live in it. From the bottom up.
const ROOMS: [(&str, &[&str], &[&str]); 13] = [
    ("text", &[], &[]),
    ("aside", &[], &[]),
    ("moment", &[], &["jiff"]),
    ("credential", &[], &["base64", "precis_profiles", "unicode_normalization"]),
    ("htpasswd", &["credential"], &[]),
    ("manifest", &["text", "moment", "credential"], &["toml"]),
    ("store", &["text", "aside", "moment", "credential"], &["nix", "rusqlite"]),
    ("jsonl", &["text", "moment", "credential", "store"], &[]),
    ("auth", &["moment", "credential", "store"], &["bcrypt", "blake3"]),
    ("users", &["moment", "credential", "store", "auth::hash"], &[]),
    (
        "server",
        &["text", "credential", "auth"],
        &[
            "actix_http",
            "actix_server",
            "actix_service",
            "actix_web",
            "ipnet",
            "memchr",
            "rustls",
            "tokio_rustls",
        ],
    ),
    (
        "cli",
        &[
            "text",
            "aside",
            "moment",
            "credential",
            "htpasswd",
            "manifest",
            "store",
            "jsonl",
            "auth",
            "users",
            "server",
        ],
        &[
            "clap",
            "clap_complete",
            "clap_mangen",
            "env_logger",
            "humantime",
            "indicatif",
            "sd_notify",
            "unicode_width",
            "wildmatch",
        ],
    ),
    ("main", &[], &["mimalloc"]),
];

/// Crates that have no room: they are words of the language more than parts of the house.
const EVERYWHERE: [&str; 10] = [
    "futures_util",
    "getrandom",
    "log",
    "percent_encoding",
    "rustix",
    "serde",
    "serde_json",
    "tempfile",
    "tokio",
    "zeroize",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The sources of the product by room: without comments, and without their tests.
fn rooms() -> BTreeMap<String, Vec<(String, String)>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut rooms: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for path in sources(&src) {
        let file = path.strip_prefix(&src).unwrap().display().to_string();
        let room = file.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let code: Vec<_> = product.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        rooms.entry(room).or_default().push((file, code.join("\n")));
    }
    rooms
}

/// The paths that begin with `root::`, with two segments: `crate::auth::hash`, `bcrypt::verify`.
fn paths<'a>(code: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(move |c| !word(c))
        .filter_map(move |path| path.strip_prefix(root)?.strip_prefix("::"))
}

#[test]
fn no_arrow_points_up() {
    let rooms = rooms();
    let known: Vec<_> = ROOMS.iter().map(|(room, ..)| *room).chain(["lib"]).collect();
    for (room, files) in &rooms {
        assert!(known.contains(&room.as_str()), "{room} is no room of the table");
        let Some((_, may_use, _)) = ROOMS.iter().find(|(name, ..)| name == room) else { continue };
        for (file, code) in files {
            assert!(
                !code.contains("crate::{"),
                "{file}: one room a line, so that this test can see it"
            );
            for path in paths(code, "crate") {
                let inside = path.starts_with(&format!("{room}::"));
                let allowed =
                    may_use.iter().any(|to| path == *to || path.starts_with(&format!("{to}::")));
                assert!(inside || allowed, "{file} uses {path}");
            }
            let ups = code.matches("super::super").count();
            assert_eq!(ups, 0, "{file}: 'super::super' hides an arrow");
        }
    }
}

#[test]
fn a_crate_is_used_in_its_room_alone() {
    for (room, files) in rooms() {
        for (file, code) in files {
            for (home, _, crates) in ROOMS {
                for name in crates {
                    let used = paths(&code, name).next().is_some();
                    assert!(!used || home == room, "{file} uses {name}, which lives in {home}");
                }
            }
        }
    }
}

#[test]
fn every_crate_is_in_the_table() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let dependencies = rest.split("\n[").next().unwrap();
    let names = dependencies.lines().filter(|line| !line.starts_with('#'));
    for name in
        names.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"))
    {
        let homes = ROOMS.iter().filter(|(_, _, crates)| crates.contains(&name.as_str())).count();
        let everywhere = usize::from(EVERYWHERE.contains(&name.as_str()));
        assert_eq!(homes + everywhere, 1, "{name}");
    }
}

/// SQLite is one backend among those to come: nothing outside of its file knows it.
#[test]
fn only_one_file_knows_sqlite() {
    for (file, code) in rooms().into_values().flatten() {
        let knows =
            code.contains("rusqlite") || code.contains("SELECT ") || code.contains("PRAGMA");
        assert!(!knows || file == "store/sqlite.rs", "{file}");
    }
}
