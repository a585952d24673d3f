//! What a release says of itself.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::cli::run;
use crate::support::store::TempStore;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

#[test]
fn version_is_the_same_everywhere() {
    let changelog = read("CHANGELOG.md");
    let mut versions = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let newest = versions.find(|title| *title != "Unreleased").unwrap();
    assert_eq!(newest.split(" - ").next(), Some(VERSION));
    let package = read("packaging/debian/changelog");
    assert!(package.starts_with(&format!("resttool ({VERSION}-1) ")), "{package}");
    assert!(read("SECURITY.md").contains(&format!("\n| {VERSION} ")));
    assert!(read("README.md").contains(&format!("Version {VERSION} ")));
    let store = TempStore::new();
    let pages = store.folder().join("man");
    let written = run(store.folder(), &format!("man {}", pages.display()), "");
    assert_eq!(written.code, 0, "{}", written.stderr);
    let mut found = 0;
    for page in fs::read_dir(&pages).unwrap() {
        let page = page.unwrap().path();
        let text = fs::read_to_string(&page).unwrap();
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.contains(&format!(" \"resttool {VERSION}\" ")), "{page:?}: {title}");
        found += 1;
    }
    assert!(found > 20, "{found} manual pages");
}

/// The table of docs/install.md names the schemas of this version.
#[test]
fn page_names_the_schemas_of_this_version() {
    let newest = |backend: &str| fs::read_dir(path("migrations").join(backend)).unwrap().count();
    let row = format!("\n| {VERSION} | {} | {} |\n", newest("sqlite"), newest("postgres"));
    assert!(read("docs/install.md").contains(&row), "{row}");
}
