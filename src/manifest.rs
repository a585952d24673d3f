//! The users as they should be, written down by an administrator in TOML, one `[[user]]` each.
//!
//! What is left out has its usual value: no groups, not locked, never expiring. This room knows no files: where a password
//! stands in one, it gives the path.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::credential::{GroupName, Groups, PasswordHash, UserName};
use crate::moment::Moment;
use crate::text::printable;

/// A user as they should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) name: UserName,
    pub(crate) secret: Source,
    pub(crate) groups: Groups,
    pub(crate) locked: bool,
    pub(crate) expires: Option<Moment>,
}

/// Where a user's password comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// It stands in this file; a relative path is meant from where the manifest stands.
    File(PathBuf),
    Hash(PasswordHash),
    /// It is made up when the user is added.
    Generate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    user: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    password_file: Option<PathBuf>,
    password_hash: Option<String>,
    #[serde(default)]
    generate: bool,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    locked: bool,
    expire: Option<Expire>,
}

/// TOML has dates and times of its own, and people write them as strings too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expire {
    Time(toml::value::Datetime),
    Text(String),
}

/// What the document says.
///
/// # Errors
/// Says where it is wrong. The error holds nothing of a hash.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, ManifestError> {
    let document: Document = toml::from_str(text).map_err(|e| {
        let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ManifestError(format!("line {line}: {}", printable(e.message())))
    })?;
    let mut seen = BTreeMap::new();
    let mut entries = Vec::new();
    for (n, table) in (1..).zip(document.user) {
        let shown = printable(&table.name);
        let at = |why: &dyn fmt::Display| ManifestError(format!("user {n}, {shown}: {why}"));
        let entry = entry(table).map_err(|why| at(&why))?;
        if let Some(first) = seen.insert(entry.name.clone(), n) {
            return Err(at(&format_args!("user {first} has the same name")));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(table: Table) -> Result<Entry, String> {
    let name = UserName::parse(&table.name).map_err(|e| format!("invalid user name: {e}"))?;
    let secret = match (table.password_file, table.password_hash, table.generate) {
        (Some(path), None, false) => Source::File(path),
        (None, Some(hash), false) => Source::Hash(
            PasswordHash::parse(&hash).map_err(|e| format!("password_hash can't be used: {e}"))?,
        ),
        (None, None, true) => Source::Generate,
        _ => {
            return Err(
                "it takes one of password_file, password_hash and generate = true".to_owned()
            );
        }
    };
    let groups = table.groups.iter().map(|group| GroupName::parse(group));
    let groups = groups
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("groups: {e}"))
        .and_then(|groups| Groups::new(groups).map_err(|e| format!("groups: {e}")))?;
    let expires = match table.expire {
        None => None,
        Some(Expire::Text(text)) if text == "never" => None,
        Some(Expire::Text(text)) => Some(text),
        Some(Expire::Time(time)) => Some(time.to_string()),
    };
    let expires =
        expires.map(|text| Moment::parse(&text)).transpose().map_err(|e| format!("expire: {e}"))?;
    Ok(Entry { name, secret, groups, locked: table.locked, expires })
}

/// What is wrong with a document, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ManifestError(String);

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn refused(text: &str) -> String {
        parse(&text.replace("HASH", HASH)).unwrap_err().to_string()
    }

    #[test]
    fn a_document_says_what_users_there_should_be() {
        let text = format!(
            r#"
            # The staff.
            [[user]]
            name = "ann"
            password_file = "secrets/ann"
            groups = ["staff", "admin"]

            [[user]]
            name = "bob"
            password_hash = "{HASH}"
            locked = true
            expire = 2027-01-31

            [[user]]
            name = "cid"
            generate = true
            expire = "2027-01-31T18:00:00+01:00"

            [[user]]
            name = "dan"
            generate = true
            expire = "never"
            "#
        );
        let entry = |name, secret| Entry {
            name: UserName::parse(name).unwrap(),
            secret,
            groups: Groups::default(),
            locked: false,
            expires: None,
        };
        let groups = ["admin", "staff"].map(|group| GroupName::parse(group).unwrap());
        let expected = [
            Entry {
                groups: Groups::new(groups).unwrap(),
                ..entry("ann", Source::File("secrets/ann".into()))
            },
            Entry {
                locked: true,
                expires: Some(Moment::parse("2027-01-31").unwrap()),
                ..entry("bob", Source::Hash(PasswordHash::parse(HASH).unwrap()))
            },
            Entry {
                expires: Some(Moment::parse("2027-01-31T17:00:00Z").unwrap()),
                ..entry("cid", Source::Generate)
            },
            entry("dan", Source::Generate),
        ];
        assert_eq!(parse(&text).unwrap(), expected);
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let one_of = "it takes one of password_file, password_hash and generate = true";
        for (text, why) in [
            ("[[user]]\nname = \"ann\"\n", format!("user 1, ann: {one_of}")),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\npassword_file = \"x\"\n",
                format!("user 1, ann: {one_of}"),
            ),
            ("[[user]]\nname = \"ann\"\ngenerate = false\n", format!("user 1, ann: {one_of}")),
            (
                "[[user]]\nname = \"a b\"\ngenerate = true\n",
                "user 1, a b: invalid user name: it holds a space".to_owned(),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\n[[user]]\nname = \"ａnn\"\ngenerate = true\n",
                "user 2, ａnn: user 1 has the same name".to_owned(),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\nexpire = \"soon\"\n",
                format!("user 1, ann: expire: {}", crate::moment::MomentError),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\nexpire = 2027-01-31T18:00:00\n",
                format!("user 1, ann: expire: {}", crate::moment::MomentError),
            ),
            (
                "[[user]]\nname = \"ann\"\npassword_hash = \"$2x$10$\"\n",
                "user 1, ann: password_hash can't be used: it is a $2x$ hash, made by a flawed program".to_owned(),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\ngroups = [\"a,b\"]\n",
                "user 1, ann: groups: it holds a comma, which stands between groups".to_owned(),
            ),
        ] {
            assert_eq!(refused(text), why);
        }
        let unknown = refused("[[user]]\nname = \"ann\"\ngenerate = true\nlock = true\n");
        assert!(unknown.starts_with("line 4: unknown field `lock`"), "{unknown}");
        let unknown = refused("[[users]]\nname = \"ann\"\n");
        assert!(unknown.starts_with("line 1: unknown field `users`"), "{unknown}");
        assert!(refused("[[user]]\nname = ann\n").starts_with("line 2: "));
        let nothing = refused("[[user]]\ngenerate = true\n");
        assert!(nothing.contains("missing field `name`"), "{nothing}");
    }
}
