//! JSON lines: one object per user with the whole record, so that an export can be imported without
//! loss. Times are RFC 3339 in UTC. Knows no store.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use super::imported_hash::{ImportedHash, ImportedHashError};
use crate::domain::{
    Account, BadRecord, GroupName, Groups, LegacyError, LegacyParams, LegacyScheme, NameError,
    StoredHash, UserName, WrappedHash,
};
use crate::text::printable;
use crate::time::Timestamp;

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    hash: &'a str,
    #[serde(flatten)]
    wrapped: Option<WrittenParams<'a>>,
    groups: Vec<&'a str>,
    locked: bool,
    expires_at: Option<String>,
    created_at: String,
    updated_at: String,
}

/// The parameters of a wrapped hash.
#[derive(Serialize)]
struct WrittenParams<'a> {
    scheme: &'static str,
    salt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<u32>,
    imported_at: String,
}

/// The fields of a line. Missing fields are those of a new user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    name: String,
    hash: String,
    scheme: Option<String>,
    salt: Option<String>,
    rounds: Option<u32>,
    imported_at: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    locked: bool,
    expires_at: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
}

/// The user of a line.
#[derive(Clone, Debug)]
pub(crate) struct ImportedUser {
    pub(crate) name: UserName,
    pub(crate) hash: ImportedHash,
    pub(crate) groups: Groups,
    pub(crate) locked: bool,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) created: Timestamp,
    pub(crate) changed: Timestamp,
}

/// Formats the line of a user, without a line end.
///
/// # Errors
/// Fails if the hash is unusable, since an import would refuse it.
pub(crate) fn line(account: &Account) -> Result<String, BadRecord> {
    let hash = account.hash.as_ref().map_err(|why| *why)?;
    let wrapped = hash.wrapped.as_ref().map(|wrapped| WrittenParams {
        scheme: wrapped.params.scheme().name(),
        salt: wrapped.params.salt(),
        rounds: wrapped.params.rounds(),
        imported_at: wrapped.imported.to_string(),
    });
    let written = Written {
        name: account.name.as_str(),
        hash: hash.bcrypt.as_str(),
        wrapped,
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
pub(crate) fn parse(line: &str, now: Timestamp) -> Result<Option<ImportedUser>, JsonlError> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let read: Read = serde_json::from_str(line).map_err(|e| JsonlError::Json(describe(&e)))?;
    let name = UserName::parse(&read.name).map_err(JsonlError::Name)?;
    let hash = ImportedHash::parse(&read.hash).map_err(|e| JsonlError::Hash(name.clone(), e))?;
    let field = |field, why: &dyn fmt::Display| JsonlError::Field(field, why.to_string());
    let groups = read.groups.iter().map(|group| GroupName::parse(group));
    let groups = groups.collect::<Result<Vec<_>, _>>().map_err(|e| field("groups", &e))?;
    let timestamp = |name, text: Option<&str>| {
        text.map(Timestamp::parse).transpose().map_err(|e| field(name, &e))
    };
    let hash = match (&read.scheme, hash) {
        (None, _) if read.salt.is_some() || read.rounds.is_some() => {
            let unused = if read.salt.is_some() { "salt" } else { "rounds" };
            return Err(field(unused, &"it belongs to a scheme"));
        }
        (None, hash) => hash,
        (Some(scheme), ImportedHash::Stored(StoredHash { bcrypt, .. })) => {
            let params = params(scheme, read.salt.as_deref().unwrap_or_default(), read.rounds)
                .map_err(|e| field("scheme", &e))?;
            let imported = timestamp("imported_at", read.imported_at.as_deref())?.unwrap_or(now);
            let wrapped = Some(WrappedHash { params, imported });
            ImportedHash::Stored(StoredHash { bcrypt, wrapped })
        }
        (Some(_), _) => return Err(field("scheme", &"only a bcrypt hash wraps another one")),
    };
    Ok(Some(ImportedUser {
        name,
        hash,
        groups: Groups::new(groups).map_err(|e| field("groups", &e))?,
        locked: read.locked,
        expires: timestamp("expires_at", read.expires_at.as_deref())?,
        created: timestamp("created_at", read.created_at.as_deref())?.unwrap_or(now),
        changed: timestamp("updated_at", read.updated_at.as_deref())?.unwrap_or(now),
    }))
}

fn params(scheme: &str, salt: &str, rounds: Option<u32>) -> Result<LegacyParams, LegacyError> {
    let scheme = LegacyScheme::from_name(scheme).ok_or(LegacyError::Scheme)?;
    LegacyParams::new(scheme, salt, rounds)
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
    Hash(UserName, #[source] ImportedHashError),
    #[error("\"{0}\": {1}")]
    Field(&'static str, String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CredentialVersion, HashError, PasswordHash};
    use crate::store::contract::wrapped_hash;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn timestamp(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    fn roy() -> Account {
        Account {
            name: UserName::parse("roy").unwrap(),
            hash: Ok(PasswordHash::parse(HASH).unwrap().into()),
            credential_version: CredentialVersion::default(),
            groups: Groups::new(["staff", "admin"].map(|g| GroupName::parse(g).unwrap())).unwrap(),
            locked: true,
            expires: Some(timestamp(1_800_000_000)),
            created: timestamp(1),
            changed: timestamp(2),
        }
    }

    /// Reads the record of a user.
    fn read(line: &str) -> Result<Option<Account>, JsonlError> {
        let read = parse(line, timestamp(9))?;
        Ok(read.map(|ImportedUser { name, hash, groups, locked, expires, created, changed }| {
            let ImportedHash::Stored(hash) = hash else { panic!("{hash:?}") };
            Account { name, hash: Ok(hash), groups, locked, expires, created, changed, ..roy() }
        }))
    }

    /// H-09
    #[test]
    fn wrapped_hash_is_written_with_its_parameters() {
        for (hash, expected) in [
            (
                wrapped_hash(LegacyScheme::Apr1, "salt", None),
                r#","scheme":"apr1","salt":"salt","imported_at":"2023-11-14T22:13:20Z","groups""#,
            ),
            (
                wrapped_hash(LegacyScheme::Sha512Crypt, "s\"lt", Some(5000)),
                r#","scheme":"sha512-crypt","salt":"s\"lt","rounds":5000,"imported_at":"#,
            ),
            (wrapped_hash(LegacyScheme::Sha, "", None), r#","scheme":"sha","salt":"","#),
        ] {
            let user = Account { hash: Ok(hash), ..roy() };
            let written = line(&user).unwrap();
            assert!(written.contains(expected), "{written}");
            assert_eq!(read(&written), Ok(Some(user)));
        }
    }

    /// H-01, H-05
    #[test]
    fn hash_may_be_of_a_legacy_scheme() {
        let line = |fields: &str| format!(r#"{{"name":"roy",{fields}}}"#);
        let apr1 = r#""hash":"$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/""#;
        let user = parse(&line(apr1), timestamp(9)).unwrap().unwrap();
        assert!(matches!(user.hash, ImportedHash::Legacy(_)));
        let user = parse(&line(r#""hash":"{PLAIN}open-sesame""#), timestamp(9)).unwrap().unwrap();
        assert!(matches!(user.hash, ImportedHash::Plain(_)));
        for (fields, why) in [
            (
                r#""hash":"rl7XqzpPWxLAY""#.to_owned(),
                "the hash of roy can't be used: its scheme is DES crypt",
            ),
            (
                format!(r#"{apr1},"scheme":"apr1","salt":"a""#),
                "\"scheme\": only a bcrypt hash wraps another one",
            ),
            (format!(r#""hash":"{HASH}","scheme":"md4""#), "\"scheme\": its scheme is not known"),
            (
                format!(r#""hash":"{HASH}","scheme":"sha512-crypt","salt":"a","rounds":1000001"#),
                "\"scheme\": it has 1000001 rounds, and at most 1000000 are permitted",
            ),
            (format!(r#""hash":"{HASH}","salt":"a""#), "\"salt\": it belongs to a scheme"),
        ] {
            assert_eq!(parse(&line(&fields), timestamp(9)).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn line_contains_the_whole_record() {
        let written = line(&roy()).unwrap();
        let expected = format!(
            r#"{{"name":"roy","hash":"{HASH}","groups":["admin","staff"],"locked":true,"expires_at":"2027-01-15T08:00:00Z","created_at":"1970-01-01T00:00:01Z","updated_at":"1970-01-01T00:00:02Z"}}"#
        );
        assert_eq!(written, expected);
        assert_eq!(read(&written), Ok(Some(roy())));
        let bare = Account { expires: None, groups: Groups::default(), locked: false, ..roy() };
        assert_eq!(read(&line(&bare).unwrap()), Ok(Some(bare)));
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
        assert_eq!(read(&least), Ok(Some(expected)));
        assert_eq!(read("  \r"), Ok(None));
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
                "the hash of roy can't be used: its scheme is plain text, or one that is not known".to_owned(),
            ),
            (
                r#"{"name":"roy","hash":"H","password":"open-sesame"}"#,
                "unknown field `password`, expected one of `name`, `hash`, `scheme`, `salt`, `rounds`, `imported_at`, `groups`, `locked`, `expires_at`, `created_at`, `updated_at`".to_owned(),
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
            assert_eq!(read(&line(&user).unwrap()), Ok(Some(user)));
        }

        #[test]
        fn arbitrary_line_does_not_panic(given in "(?s).{0,80}") {
            let _ = parse(&given, timestamp(9));
        }
    }
}
