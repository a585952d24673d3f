//! JSON lines: one object per user with the whole record, so that an export can be imported without
//! loss. Times are RFC 3339 in UTC. Knows no store.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::domain::{
    Account, BadRecord, GroupName, Groups, HashError, NameError, PasswordHash, UserName,
};
use crate::text::printable;
use crate::time::Timestamp;

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    hash: &'a str,
    groups: Vec<&'a str>,
    locked: bool,
    expires_at: Option<String>,
    created_at: String,
    updated_at: String,
}

/// The fields of a line. Missing fields are those of a new user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    name: String,
    hash: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    locked: bool,
    expires_at: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
}

/// Formats the line of a user, without a line end.
///
/// # Errors
/// Fails if the hash is unusable, since an import would refuse it.
pub(crate) fn line(account: &Account) -> Result<String, BadRecord> {
    let hash = account.hash.as_ref().map_err(|why| *why)?;
    let written = Written {
        name: account.name.as_str(),
        hash: hash.as_str(),
        groups: account.groups.iter().map(GroupName::as_str).collect(),
        locked: account.locked,
        expires_at: account.expires.map(|time| time.to_string()),
        created_at: account.created.to_string(),
        updated_at: account.changed.to_string(),
    };
    // Serializing these fields cannot fail.
    serde_json::to_string(&written).map_err(|_| BadRecord::Field("name"))
}

/// Parses a line. The times of the user are `now` if the line has none. Returns `None` for a blank
/// line.
///
/// # Errors
/// Fails with the reason why the line is invalid.
pub(crate) fn parse(line: &str, now: Timestamp) -> Result<Option<Account>, JsonlError> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let read: Read = serde_json::from_str(line).map_err(|e| JsonlError::Json(describe(&e)))?;
    let name = UserName::parse(&read.name).map_err(JsonlError::Name)?;
    let hash = PasswordHash::parse(&read.hash).map_err(|e| JsonlError::Hash(name.clone(), e))?;
    let field = |field, why: &dyn fmt::Display| JsonlError::Field(field, why.to_string());
    let groups = read.groups.iter().map(|group| GroupName::parse(group));
    let groups = groups.collect::<Result<Vec<_>, _>>().map_err(|e| field("groups", &e))?;
    let timestamp = |name, text: Option<&str>| {
        text.map(Timestamp::parse).transpose().map_err(|e| field(name, &e))
    };
    Ok(Some(Account {
        name,
        hash: Ok(hash),
        groups: Groups::new(groups).map_err(|e| field("groups", &e))?,
        locked: read.locked,
        expires: timestamp("expires_at", read.expires_at.as_deref())?,
        created: timestamp("created_at", read.created_at.as_deref())?.unwrap_or(now),
        changed: timestamp("updated_at", read.updated_at.as_deref())?.unwrap_or(now),
    }))
}

/// Describes an error of serde without parts of the line, which may be a hash.
fn describe(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let about_keys = ["unknown field", "missing field", "duplicate field"];
    if about_keys.iter().any(|begin| text.starts_with(begin)) {
        let text = text.rsplit_once(" at line").map_or(&*text, |(text, _)| text);
        return printable(text);
    }
    match e.classify() {
        Category::Data => {
            format!("there is a value of the wrong type before column {}", e.column())
        }
        Category::Eof => "it is no JSON: it ends too soon".to_owned(),
        Category::Syntax | Category::Io => format!("it is no JSON from column {} on", e.column()),
    }
}

/// The reason why a line is refused. It contains no part of a hash.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum JsonlError {
    #[error("{0}")]
    Json(String),
    #[error("\"name\" can't be a user's name: {0}")]
    Name(#[source] NameError),
    #[error("the hash of {0} can't be used: {1}")]
    Hash(UserName, #[source] HashError),
    #[error("\"{0}\": {1}")]
    Field(&'static str, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn timestamp(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    fn roy() -> Account {
        Account {
            name: UserName::parse("roy").unwrap(),
            hash: Ok(PasswordHash::parse(HASH).unwrap()),
            groups: Groups::new(["staff", "admin"].map(|g| GroupName::parse(g).unwrap())).unwrap(),
            locked: true,
            expires: Some(timestamp(1_800_000_000)),
            created: timestamp(1),
            changed: timestamp(2),
        }
    }

    #[test]
    fn line_contains_the_whole_record() {
        let written = line(&roy()).unwrap();
        let expected = format!(
            r#"{{"name":"roy","hash":"{HASH}","groups":["admin","staff"],"locked":true,"expires_at":"2027-01-15T08:00:00Z","created_at":"1970-01-01T00:00:01Z","updated_at":"1970-01-01T00:00:02Z"}}"#
        );
        assert_eq!(written, expected);
        assert_eq!(parse(&written, timestamp(9)), Ok(Some(roy())));
        let bare = Account { expires: None, groups: Groups::default(), locked: false, ..roy() };
        assert_eq!(parse(&line(&bare).unwrap(), timestamp(9)), Ok(Some(bare)));
        let bad = BadRecord::Hash(HashError::Flawed);
        assert_eq!(line(&Account { hash: Err(bad), ..roy() }), Err(bad));
    }

    #[test]
    fn name_and_hash_are_enough() {
        let least = format!(r#"{{"name":"roy","hash":"{HASH}"}}"#);
        let expected = Account {
            groups: Groups::default(),
            locked: false,
            expires: None,
            created: timestamp(9),
            changed: timestamp(9),
            ..roy()
        };
        assert_eq!(parse(&least, timestamp(9)), Ok(Some(expected)));
        assert_eq!(parse("  \r", timestamp(9)), Ok(None));
    }

    /// L-05, X-01
    #[test]
    fn invalid_line_is_refused_without_parts_of_a_hash() {
        for (line, why) in [
            ("{", "it is no JSON: it ends too soon".to_owned()),
            ("roy", "it is no JSON from column 1 on".to_owned()),
            ("{}", "missing field `name`".to_owned()),
            (r#"{"name":"a:b","hash":"H"}"#, "\"name\" can't be a user's name: it holds a colon, which HTTP Basic can't carry".to_owned()),
            (
                r#"{"name":"roy","hash":"open-sesame"}"#,
                format!("the hash of roy can't be used: {}", HashError::NotBcrypt),
            ),
            (
                r#"{"name":"roy","hash":"H","password":"open-sesame"}"#,
                "unknown field `password`, expected one of `name`, `hash`, `groups`, `locked`, `expires_at`, `created_at`, `updated_at`".to_owned(),
            ),
            (
                r#"{"name":"roy","hash":"H","locked":"open-sesame"}"#,
                "there is a value of the wrong type before column 47".to_owned(),
            ),
            (r#"{"name":"roy","hash":"H","groups":["a,b"]}"#, "\"groups\": it holds a comma, which stands between groups".to_owned()),
            (
                r#"{"name":"roy","hash":"H","expires_at":"soon"}"#,
                format!("\"expires_at\": {}", crate::time::TimestampError),
            ),
        ] {
            let line = line.replace(r#""H""#, &format!("\"{HASH}\""));
            let error = parse(&line, timestamp(9)).unwrap_err();
            let column = |text: &str| text.replace(&(47 + HASH.len() - 1).to_string(), "47");
            assert_eq!(column(&error.to_string()), why, "{line}");
            assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
        }
    }

    proptest::proptest! {
        /// L-05: an exported and imported user is unchanged.
        #[test]
        fn written_user_is_read_back(
            name in "[^:\\p{C}\\p{Z}]{1,30}",
            groups in proptest::collection::vec("[a-z\"\\\\]{1,8}", 0..5),
            locked: bool,
            times in proptest::array::uniform3(0..253_402_207_200_i64),
        ) {
            let Ok(name) = UserName::parse(&name) else { return Ok(()) };
            let groups = groups.iter().map(|group| GroupName::parse(group).unwrap());
            let [expires, created, changed] = times.map(timestamp);
            let groups = Groups::new(groups).unwrap();
            let user = Account { name, groups, locked, expires: Some(expires), created, changed, ..roy() };
            assert_eq!(parse(&line(&user).unwrap(), timestamp(9)), Ok(Some(user)));
        }

        #[test]
        fn arbitrary_line_does_not_panic(given in "(?s).{0,80}") {
            let _ = parse(&given, timestamp(9));
        }
    }
}
