//! The text format that Apache's htpasswd made common: `name:hash`, a user a line.
//!
//! Read as Apache reads it: blank lines and those that begin with `#` say nothing, and what follows a second colon is a
//! comment. Only bcrypt hashes are taken. This room knows no files and no store.

use std::fmt;

use crate::credential::{HashError, NameError, PasswordHash, UserName};

/// The user of a line; `None` if it says nothing.
///
/// # Errors
/// Says what is wrong with the line. The error holds nothing of the hash.
pub fn parse(line: &str) -> Result<Option<(UserName, PasswordHash)>, LineError> {
    let line = line.trim_matches([' ', '\t', '\r', '\n']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut fields = line.split(':');
    let (Some(name), Some(hash)) = (fields.next(), fields.next()) else {
        return Err(LineError::NoColon);
    };
    let name = UserName::parse(name).map_err(LineError::Name)?;
    match PasswordHash::parse(hash) {
        Ok(hash) => Ok(Some((name, hash))),
        Err(HashError::NotBcrypt) => Err(LineError::Scheme(name, scheme(hash))),
        Err(why) => Err(LineError::Hash(name, why)),
    }
}

/// The line of a user, without its end; `None` if other programs would take it for a comment.
#[must_use]
pub fn line(name: &UserName, hash: &PasswordHash) -> Option<String> {
    let name = name.as_str();
    (!name.starts_with('#')).then(|| format!("{name}:{}", hash.as_str()))
}

/// How a hash that is not bcrypt's was made.
fn scheme(hash: &str) -> &'static str {
    const SCHEMES: [(&str, &str); 13] = [
        ("$apr1$", "apr1 (MD5)"),
        ("{SHA}", "SHA-1"),
        ("{SSHA}", "salted SHA-1"),
        ("{PLAIN}", "plain text"),
        ("{MD5}", "MD5"),
        ("$1$", "MD5 crypt"),
        ("$5$", "SHA-256 crypt"),
        ("$6$", "SHA-512 crypt"),
        ("$7$", "scrypt"),
        ("$y$", "yescrypt"),
        ("$gy$", "gost-yescrypt"),
        ("$argon2", "Argon2"),
        ("$sha1$", "SHA-1 crypt"),
    ];
    let of_crypt = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '/';
    let known = SCHEMES.iter().find(|(begin, _)| hash.starts_with(begin)).map(|(_, name)| *name);
    known.unwrap_or(if hash.is_empty() {
        "none at all"
    } else if hash.len() == 13 && hash.chars().all(of_crypt) {
        "DES crypt"
    } else {
        "plain text, or one that is not known"
    })
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LineError {
    /// No name stands apart from a hash.
    NoColon,
    /// The name can't be one.
    Name(NameError),
    /// The user's password is kept in another way than bcrypt's.
    Scheme(UserName, &'static str),
    /// The user's bcrypt hash can't be used.
    Hash(UserName, HashError),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("there is no colon in it"),
            Self::Name(why) => {
                write!(f, "what stands before the colon can't be a user's name: {why}")
            }
            Self::Scheme(name, scheme) => {
                write!(f, "the hash of {name} is no bcrypt hash; its scheme is {scheme}")
            }
            Self::Hash(name, why) => write!(f, "the hash of {name} can't be used: {why}"),
        }
    }
}

impl std::error::Error for LineError {}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn user(name: &str) -> Option<(UserName, PasswordHash)> {
        Some((UserName::parse(name).unwrap(), PasswordHash::parse(HASH).unwrap()))
    }

    /// L-05
    #[test]
    fn a_line_is_a_user_or_says_nothing() {
        for (line, expected) in [
            (format!("roy:{HASH}"), user("roy")),
            (format!("roy:{HASH}\r\n"), user("roy")),
            (format!("  roy:{HASH} \t"), user("roy")),
            (format!("roy:{HASH}:a comment: of nginx"), user("roy")),
            (format!("ｒｏｙ:{HASH}"), user("roy")),
            (String::new(), None),
            (" \r".into(), None),
            ("# a comment".into(), None),
            (format!("#roy:{HASH}"), None),
        ] {
            assert_eq!(parse(&line), Ok(expected), "{line}");
        }
    }

    /// L-05, C-05, C-06, C-08
    #[test]
    fn every_other_line_is_refused_with_what_is_wrong() {
        let roy = || UserName::parse("roy").unwrap();
        assert_eq!(parse("roy"), Err(LineError::NoColon));
        assert_eq!(parse(&format!(":{HASH}")), Err(LineError::Name(NameError::Empty)));
        let space = LineError::Name(NameError::Character(0x20));
        assert_eq!(parse(&format!("roy b:{HASH}")), Err(space));
        for (hash, scheme) in [
            ("$apr1$K5aLM5SK$J2yNyxL1kpwL1WYbGsSPR.", "apr1 (MD5)"),
            ("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", "SHA-1"),
            ("rl7XqzpPWxLAY", "DES crypt"),
            ("$5$salt$digest", "SHA-256 crypt"),
            ("$6$salt$digest", "SHA-512 crypt"),
            ("$argon2id$v=19$m=65536,t=2,p=1$c2FsdA$aGFzaA", "Argon2"),
            ("open-sesame", "plain text, or one that is not known"),
            ("", "none at all"),
        ] {
            let error = LineError::Scheme(roy(), scheme);
            assert_eq!(parse(&format!("roy:{hash}")), Err(error), "{hash}");
        }
        for (hash, why) in [
            (HASH.replacen("2y", "2x", 1), HashError::Flawed),
            (HASH.replacen("05", "16", 1), HashError::Cost(16)),
            (HASH.replacen("C.E", "C/E", 1), HashError::Padding),
            (HASH[..59].to_owned(), HashError::Length(59)),
        ] {
            assert_eq!(parse(&format!("roy:{hash}")), Err(LineError::Hash(roy(), why)), "{hash}");
        }
    }

    /// X-01
    #[test]
    fn no_error_shows_anything_of_the_hash() {
        for line in ["roy:open-sesame", "roy:$2y$05$secret", "open-sesame"] {
            let error = parse(line).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("sesame") && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_never_a_comment() {
        let (name, hash) = user("roy").unwrap();
        let written = line(&name, &hash).unwrap();
        assert_eq!(written, format!("roy:{HASH}"));
        assert_eq!(parse(&written), Ok(user("roy")));
        assert_eq!(line(&UserName::parse("#roy").unwrap(), &hash), None);
    }

    proptest::proptest! {
        /// L-05: whatever stands in a file, a user of it is written as they were read.
        #[test]
        fn a_line_that_was_read_is_written_and_read_again(name in "\\PC{0,20}", rest in "(:\\PC{0,20})?") {
            let given = format!("{name}:{HASH}{rest}");
            if let Ok(Some((name, hash))) = parse(&given) {
                let written = line(&name, &hash).unwrap();
                assert_eq!(parse(&written), Ok(Some((name, hash))));
            }
        }

        #[test]
        fn no_line_does_more_than_be_refused(given in "(?s).{0,80}") {
            let _ = parse(&given);
        }
    }
}
