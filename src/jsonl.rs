//! Users as lines of JSON, one object each, that hold all that is kept of them: so that export and import are a whole copy.
//!
//! This room knows no files. Times are RFC 3339 in UTC.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::credential::{GroupName, Groups, HashError, NameError, PasswordHash, UserName};
use crate::moment::Moment;
use crate::store::{Account, BadRecord};
use crate::text::printable;

/// A line as it is written.
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

/// A line as it is read: what is not there is as for a new user.
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

/// The line of a user, without its end.
///
/// # Errors
/// When the hash can't be used: an import would refuse it.
pub(crate) fn line(account: &Account) -> Result<String, BadRecord> {
    let hash = account.hash.as_ref().map_err(|why| *why)?;
    let written = Written {
        name: account.name.as_str(),
        hash: hash.as_str(),
        groups: account.groups.iter().map(GroupName::as_str).collect(),
        locked: account.locked,
        expires_at: account.expires.map(|moment| moment.to_string()),
        created_at: account.created.to_string(),
        updated_at: account.changed.to_string(),
    };
    // None of the fields can fail.
    serde_json::to_string(&written).map_err(|_| BadRecord::Field("name"))
}

/// The user of a line, added and changed `now` unless it says when; `None` if it is blank.
///
/// # Errors
/// Says what is wrong with the line. The error holds nothing of the hash.
pub(crate) fn parse(line: &str, now: Moment) -> Result<Option<Account>, LineError> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let read: Read = serde_json::from_str(line).map_err(|e| LineError::Json(describe(&e)))?;
    let name = UserName::parse(&read.name).map_err(LineError::Name)?;
    let hash = PasswordHash::parse(&read.hash).map_err(|e| LineError::Hash(name.clone(), e))?;
    let field = |field, why: &dyn fmt::Display| LineError::Field(field, why.to_string());
    let groups = read.groups.iter().map(|group| GroupName::parse(group));
    let groups = groups.collect::<Result<Vec<_>, _>>().map_err(|e| field("groups", &e))?;
    let moment =
        |name, text: Option<&str>| text.map(Moment::parse).transpose().map_err(|e| field(name, &e));
    Ok(Some(Account {
        name,
        hash: Ok(hash),
        groups: Groups::new(groups).map_err(|e| field("groups", &e))?,
        locked: read.locked,
        expires: moment("expires_at", read.expires_at.as_deref())?,
        created: moment("created_at", read.created_at.as_deref())?.unwrap_or(now),
        changed: moment("updated_at", read.updated_at.as_deref())?.unwrap_or(now),
    }))
}

/// What serde has to say, without what it repeats of the line: that may be a hash.
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

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LineError {
    Json(String),
    Name(NameError),
    Hash(UserName, HashError),
    Field(&'static str, String),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(why) => f.write_str(why),
            Self::Name(why) => write!(f, "\"name\" can't be a user's name: {why}"),
            Self::Hash(name, why) => write!(f, "the hash of {name} can't be used: {why}"),
            Self::Field(field, why) => write!(f, "\"{field}\": {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn moment(seconds: i64) -> Moment {
        Moment::from_seconds(seconds).unwrap()
    }

    fn roy() -> Account {
        Account {
            name: UserName::parse("roy").unwrap(),
            hash: Ok(PasswordHash::parse(HASH).unwrap()),
            groups: Groups::new(["staff", "admin"].map(|g| GroupName::parse(g).unwrap())).unwrap(),
            locked: true,
            expires: Some(moment(1_800_000_000)),
            created: moment(1),
            changed: moment(2),
        }
    }

    #[test]
    fn a_line_holds_all_that_is_kept_of_a_user() {
        let written = line(&roy()).unwrap();
        let expected = format!(
            r#"{{"name":"roy","hash":"{HASH}","groups":["admin","staff"],"locked":true,"expires_at":"2027-01-15T08:00:00Z","created_at":"1970-01-01T00:00:01Z","updated_at":"1970-01-01T00:00:02Z"}}"#
        );
        assert_eq!(written, expected);
        assert_eq!(parse(&written, moment(9)), Ok(Some(roy())));
        let bare = Account { expires: None, groups: Groups::default(), locked: false, ..roy() };
        assert_eq!(parse(&line(&bare).unwrap(), moment(9)), Ok(Some(bare)));
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
            created: moment(9),
            changed: moment(9),
            ..roy()
        };
        assert_eq!(parse(&least, moment(9)), Ok(Some(expected)));
        assert_eq!(parse("  \r", moment(9)), Ok(None));
    }

    /// L-05, X-01
    #[test]
    fn every_other_line_is_refused_with_what_is_wrong_and_nothing_of_a_hash() {
        for (line, why) in [
            ("{", "it is no JSON: it ends too soon".to_owned()),
            ("roy", "it is no JSON from column 1 on".to_owned()),
            ("{}", "missing field `name`".to_owned()),
            (r#"{"name":"a b","hash":"H"}"#, "\"name\" can't be a user's name: it holds a space".to_owned()),
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
                format!("\"expires_at\": {}", crate::moment::MomentError),
            ),
        ] {
            let line = line.replace(r#""H""#, &format!("\"{HASH}\""));
            let error = parse(&line, moment(9)).unwrap_err();
            let column = |text: &str| text.replace(&(47 + HASH.len() - 1).to_string(), "47");
            assert_eq!(column(&error.to_string()), why, "{line}");
            assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
        }
    }

    proptest::proptest! {
        /// L-05: export and import are a whole copy, of whomever.
        #[test]
        fn a_user_that_was_written_is_read_again(
            name in "[^:\\p{C}\\p{Z}]{1,30}",
            groups in proptest::collection::vec("[a-z\"\\\\]{1,8}", 0..5),
            locked: bool,
            times in proptest::array::uniform3(0..253_402_207_200_i64),
        ) {
            let Ok(name) = UserName::parse(&name) else { return Ok(()) };
            let groups = groups.iter().map(|group| GroupName::parse(group).unwrap());
            let [expires, created, changed] = times.map(moment);
            let groups = Groups::new(groups).unwrap();
            let user = Account { name, groups, locked, expires: Some(expires), created, changed, ..roy() };
            assert_eq!(parse(&line(&user).unwrap(), moment(9)), Ok(Some(user)));
        }

        #[test]
        fn no_line_does_more_than_be_refused(given in "(?s).{0,80}") {
            let _ = parse(&given, moment(9));
        }
    }
}
