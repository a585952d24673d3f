//! The desired state of users: TOML with one `[[user]]` table per user.
//!
//! A missing key has its default: no groups, not locked, no expiry. A password file is returned as
//! a path and not read. Knows no store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::domain::{GroupName, Groups, PasswordHash, UserName};
use crate::text::printable;
use crate::time::Timestamp;

/// One `[[user]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) name: UserName,
    pub(crate) password: EntryPassword,
    pub(crate) groups: Groups,
    pub(crate) locked: bool,
    pub(crate) expires: Option<Timestamp>,
}

/// The source of a password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EntryPassword {
    /// A file. A relative path is relative to the folder of the document.
    File(PathBuf),
    Hash(PasswordHash),
    /// Generate one when the user is added.
    Generate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    user: Vec<UserTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserTable {
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

/// An expiry. TOML has types for dates and times, and a string is accepted too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expire {
    Time(toml::value::Datetime),
    Text(String),
}

/// Parses a document. Returns the result of each `[[user]]` table.
///
/// # Errors
/// Fails with the position of the problem if the document is not one. The errors contain no part of
/// a hash.
pub(crate) fn parse(text: &str) -> Result<Vec<Result<Entry, DocumentError>>, DocumentError> {
    let document: Document = toml::from_str(text).map_err(|e| {
        let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        DocumentError(format!("line {line}: {}", printable(e.message())))
    })?;
    let mut seen = BTreeMap::new();
    let entries = (1..).zip(document.user).map(|(n, table)| {
        let shown = printable(&table.name);
        let at = |why: &dyn fmt::Display| DocumentError(format!("user {n}, {shown}: {why}"));
        let entry = entry(table).map_err(|why| at(&why))?;
        match seen.insert(entry.name.clone(), n) {
            Some(first) => Err(at(&format_args!("user {first} has the same name"))),
            None => Ok(entry),
        }
    });
    Ok(entries.collect())
}

fn entry(table: UserTable) -> Result<Entry, String> {
    let name = UserName::parse(&table.name).map_err(|e| format!("invalid user name: {e}"))?;
    let password = match (table.password_file, table.password_hash, table.generate) {
        (Some(path), None, false) => EntryPassword::File(path),
        (None, Some(hash), false) => EntryPassword::Hash(
            PasswordHash::parse(&hash).map_err(|e| format!("password_hash can't be used: {e}"))?,
        ),
        (None, None, true) => EntryPassword::Generate,
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
    let expires = expires
        .map(|text| Timestamp::parse(&text))
        .transpose()
        .map_err(|e| format!("expire: {e}"))?;
    Ok(Entry { name, password, groups, locked: table.locked, expires })
}

/// The problem of a document, with its position.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DocumentError(String);

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn refused(text: &str) -> String {
        let parsed = parse(&text.replace("HASH", HASH));
        parsed
            .and_then(|entries| entries.into_iter().collect::<Result<Vec<_>, _>>())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn document_describes_the_desired_users() {
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
        let entry = |name, password| Entry {
            name: UserName::parse(name).unwrap(),
            password,
            groups: Groups::default(),
            locked: false,
            expires: None,
        };
        let groups = ["admin", "staff"].map(|group| GroupName::parse(group).unwrap());
        let expected = [
            Entry {
                groups: Groups::new(groups).unwrap(),
                ..entry("ann", EntryPassword::File("secrets/ann".into()))
            },
            Entry {
                locked: true,
                expires: Some(Timestamp::parse("2027-01-31").unwrap()),
                ..entry("bob", EntryPassword::Hash(PasswordHash::parse(HASH).unwrap()))
            },
            Entry {
                expires: Some(Timestamp::parse("2027-01-31T17:00:00Z").unwrap()),
                ..entry("cid", EntryPassword::Generate)
            },
            entry("dan", EntryPassword::Generate),
        ];
        let entries: Vec<_> = parse(&text).unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(entries, expected);
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn error_names_the_problem_and_its_position() {
        let one_of = "it takes one of password_file, password_hash and generate = true";
        for (text, why) in [
            ("[[user]]\nname = \"ann\"\n", format!("user 1, ann: {one_of}")),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\npassword_file = \"x\"\n",
                format!("user 1, ann: {one_of}"),
            ),
            ("[[user]]\nname = \"ann\"\ngenerate = false\n", format!("user 1, ann: {one_of}")),
            (
                "[[user]]\nname = \"a \"\ngenerate = true\n",
                "user 1, a : invalid user name: it begins or ends with a space, or has two in a row".to_owned(),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\n[[user]]\nname = \"ａnn\"\ngenerate = true\n",
                "user 2, ａnn: user 1 has the same name".to_owned(),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\nexpire = \"soon\"\n",
                format!("user 1, ann: expire: {}", crate::time::TimestampError),
            ),
            (
                "[[user]]\nname = \"ann\"\ngenerate = true\nexpire = 2027-01-31T18:00:00\n",
                format!("user 1, ann: expire: {}", crate::time::TimestampError),
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
