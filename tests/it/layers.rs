//! The layers of `docs/architecture.md`, checked against the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module, the modules that it may use, and the crates that are confined to it. From the bottom up.
const MODULES: [(&str, &[&str], &[&str]); 14] = [
    ("text", &[], &[]),
    ("time", &[], &["jiff"]),
    ("fs", &["text"], &[]),
    (
        "domain",
        &["text", "time"],
        &["base64", "precis_profiles", "unicode_normalization", "unicode_properties"],
    ),
    ("hashing", &["domain"], &["base64", "bcrypt", "blake3", "md5", "sha1", "sha_crypt"]),
    ("formats", &["domain", "hashing", "text", "time"], &["toml"]),
    (
        "store",
        &["domain", "hashing", "fs", "text", "time"],
        &[
            "blake3",
            "nix",
            "rusqlite",
            "rustls",
            "rustls_native_certs",
            "tokio_postgres",
            "tokio_postgres_rustls",
        ],
    ),
    ("auth", &["domain", "hashing", "store", "text", "time"], &["blake3", "slab"]),
    ("admin", &["domain", "hashing", "store", "text", "time"], &[]),
    (
        "http",
        &["domain", "auth", "fs", "text", "time"],
        &[
            "actix_http",
            "actix_rt",
            "actix_service",
            "actix_web",
            "http_body_util",
            "hyper",
            "hyper_util",
            "ipnet",
            "maud",
            "memchr",
            "prometheus_client",
            "rustls",
            "rustls_native_certs",
            "tokio_rustls",
            "x509_cert",
        ],
    ),
    (
        "config",
        &["domain", "hashing", "store", "auth", "admin", "http", "text", "time"],
        &["clap", "strsim"],
    ),
    (
        "cli",
        &[
            "text", "time", "fs", "domain", "hashing", "formats", "store", "auth", "admin", "http",
            "config",
        ],
        &[
            "anstream",
            "anstyle",
            "clap",
            "clap_complete",
            "clap_mangen",
            "env_logger",
            "indicatif",
            "listenfd",
            "roff",
            "sd_notify",
            "unicode_width",
            "wildmatch",
        ],
    ),
    (
        "lib",
        &["admin", "auth", "cli", "domain", "formats", "hashing", "http", "store", "time"],
        &[],
    ),
    ("main", &[], &["mimalloc"]),
];

/// What authentication must not use of the store.
const ADMINISTRATION: [&str; 4] = ["UserStore", "Transaction", "Visibility", "Location"];

/// Crates that every module may use.
const EVERYWHERE: [&str; 12] = [
    "arc_swap",
    "futures_util",
    "getrandom",
    "log",
    "percent_encoding",
    "rustix",
    "serde",
    "serde_json",
    "tempfile",
    "thiserror",
    "tokio",
    "zeroize",
];

/// The limit of the code of a file, in lines, without its tests.
const MAX_LINES: usize = 500;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Tests may cross layers.
        if ["tests", "tests.rs", "contract.rs", "model"].iter().any(|test| path.ends_with(test)) {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of the program by module: its files without comments and tests.
fn modules() -> BTreeMap<String, Vec<(String, String)>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for path in sources(&src) {
        let file = path.strip_prefix(&src).unwrap().display().to_string();
        let module = file.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let tests = text.find("\n#[cfg(test)]\nmod tests {");
        let tests = tests.or(text.find("\n#[cfg(test)]\npub(super) mod tests {"));
        let (product, tests) = text.split_at(tests.unwrap_or(text.len()));
        let ends = tests.lines().filter(|line| *line == "}").count();
        assert!(ends <= 1, "{file}: code stands behind the tests, where it is not checked");
        let code: Vec<_> = product.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        modules.entry(module).or_default().push((file, code.join("\n")));
    }
    modules
}

/// Returns the paths that begin with `root::`, without it.
fn paths<'a>(code: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(move |c| !word(c))
        .filter_map(move |path| path.strip_prefix(root)?.strip_prefix("::"))
}

#[test]
fn imports_point_downward() {
    let modules = modules();
    assert!(modules.len() >= MODULES.len(), "{:?}", modules.keys());
    for (module, files) in &modules {
        let row = MODULES.iter().find(|(name, ..)| name == module);
        let (_, may_use, _) = row.unwrap_or_else(|| panic!("{module} is not in the table"));
        for (file, code) in files {
            assert!(!code.contains("crate::{"), "{file}: import one module per line");
            for path in paths(code, "crate") {
                let inside = path == module || path.starts_with(&format!("{module}::"));
                let allowed =
                    may_use.iter().any(|to| path == *to || path.starts_with(&format!("{to}::")));
                assert!(inside || allowed, "{file} uses {path}");
            }
            assert!(!code.contains("super::super"), "{file}: 'super::super' hides an import");
        }
    }
}

#[test]
fn authentication_does_not_administer_users() {
    for (file, code) in &modules()["auth"] {
        for name in ADMINISTRATION {
            let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(!words.any(|word| word == name), "{file} uses {name}");
        }
    }
}

#[test]
fn crates_are_confined_to_their_modules() {
    for (module, files) in modules() {
        for (file, code) in files {
            for (_, _, crates) in MODULES {
                for name in crates {
                    let used = paths(&code, name).next().is_some();
                    let home = MODULES
                        .iter()
                        .any(|(home, _, crates)| *home == module && crates.contains(name));
                    assert!(!used || home, "{file} uses {name}");
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
        let home = MODULES.iter().any(|(_, _, crates)| crates.contains(&name.as_str()));
        assert!(home != EVERYWHERE.contains(&name.as_str()), "{name}");
    }
}

/// Other backends will stand beside SQLite.
#[test]
fn only_the_backends_know_sql() {
    for (file, code) in modules().into_values().flatten() {
        let knows =
            code.contains("rusqlite") || code.contains("SELECT ") || code.contains("PRAGMA");
        let is_backend = ["store/sqlite/", "store/postgres/"].iter().any(|b| file.starts_with(b));
        assert!(!knows || is_backend, "{file}");
    }
}

#[test]
fn files_are_short() {
    for (file, code) in modules().into_values().flatten() {
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= MAX_LINES, "{file} has {lines} lines of code");
    }
}

/// The same name does not mean two things.
#[test]
fn every_type_has_a_name_of_its_own() {
    let mut seen = BTreeMap::new();
    for (file, code) in modules().into_values().flatten() {
        for line in code.lines() {
            // Types of a function, which are indented, have no meaning outside of it.
            let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let kind = words.iter().position(|word| ["struct", "enum", "trait"].contains(word));
            let Some(name) = kind.and_then(|at| words.get(at + 1)) else { continue };
            if line.starts_with(' ') || name.is_empty() {
                continue;
            }
            let first = seen.insert((*name).to_owned(), file.clone());
            assert_eq!(first, None, "{name} in {file}");
        }
    }
}
