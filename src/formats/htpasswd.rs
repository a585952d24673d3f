//! The format of Apache's htpasswd: one `name:hash` line per user.
//!
//! Lines are read as Apache reads them. Blank lines and lines that begin with `#` are comments, and
//! so is the text after a second colon. Only bcrypt hashes are accepted.

use crate::domain::{HashError, NameError, PasswordHash, UserName};

/// Parses a line. Returns `None` for a blank line or a comment.
///
/// # Errors
/// Fails with the reason why the line is invalid.
pub fn parse(line: &str) -> Result<Option<(UserName, PasswordHash)>, HtpasswdError> {
    let line = line.trim_matches([' ', '\t', '\r', '\n']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut fields = line.split(':');
    let (Some(name), Some(hash)) = (fields.next(), fields.next()) else {
        return Err(HtpasswdError::NoColon);
    };
    let name = UserName::parse(name).map_err(HtpasswdError::Name)?;
    match PasswordHash::parse(hash) {
        Ok(hash) => Ok(Some((name, hash))),
        Err(HashError::NotBcrypt) => Err(HtpasswdError::Scheme(name, scheme(hash))),
        Err(why) => Err(HtpasswdError::Hash(name, why)),
    }
}

/// Formats the line of a user, without a line end. Returns `None` if other programs would take it
/// for a comment.
#[must_use]
pub fn line(name: &UserName, hash: &PasswordHash) -> Option<String> {
    let name = name.as_str();
    (!name.starts_with('#')).then(|| format!("{name}:{}", hash.as_str()))
}

/// Names the scheme of a hash that is not a bcrypt hash.
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

/// The reason why a line is refused. It contains no part of a hash.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// No colon separates a name from a hash.
    #[error("there is no colon in it")]
    NoColon,
    /// The name is invalid.
    #[error("what stands before the colon can't be a user's name: {0}")]
    Name(#[source] NameError),
    /// The hash of this user has another scheme than bcrypt.
    #[error("the hash of {0} is no bcrypt hash; its scheme is {1}")]
    Scheme(UserName, &'static str),
    /// The bcrypt hash of this user is unusable.
    #[error("the hash of {0} can't be used: {1}")]
    Hash(UserName, #[source] HashError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn user(name: &str) -> Option<(UserName, PasswordHash)> {
        Some((UserName::parse(name).unwrap(), PasswordHash::parse(HASH).unwrap()))
    }

    /// L-05
    #[test]
    fn line_is_a_user_or_is_ignored() {
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
    fn invalid_line_is_refused_with_its_problem() {
        let roy = || UserName::parse("roy").unwrap();
        assert_eq!(parse("roy"), Err(HtpasswdError::NoColon));
        assert_eq!(parse(&format!(":{HASH}")), Err(HtpasswdError::Name(NameError::Empty)));
        let spaces = HtpasswdError::Name(NameError::Spaces);
        assert_eq!(parse(&format!("roy :{HASH}")), Err(spaces));
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
            let error = HtpasswdError::Scheme(roy(), scheme);
            assert_eq!(parse(&format!("roy:{hash}")), Err(error), "{hash}");
        }
        for (hash, why) in [
            (HASH.replacen("2y", "2x", 1), HashError::Flawed),
            (HASH.replacen("05", "16", 1), HashError::Cost(16)),
            (HASH.replacen("C.E", "C/E", 1), HashError::Padding),
            (HASH[..59].to_owned(), HashError::Length(59)),
        ] {
            assert_eq!(
                parse(&format!("roy:{hash}")),
                Err(HtpasswdError::Hash(roy(), why)),
                "{hash}"
            );
        }
    }

    /// X-01
    #[test]
    fn error_contains_no_part_of_the_hash() {
        for line in ["roy:open-sesame", "roy:$2y$05$secret", "open-sesame"] {
            let error = parse(line).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("sesame") && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn written_line_is_read_back_and_is_never_a_comment() {
        let (name, hash) = user("roy").unwrap();
        let written = line(&name, &hash).unwrap();
        assert_eq!(written, format!("roy:{HASH}"));
        assert_eq!(parse(&written), Ok(user("roy")));
        assert_eq!(line(&UserName::parse("#roy").unwrap(), &hash), None);
    }

    proptest::proptest! {
        /// L-05: a user that was read from a file is written unchanged.
        #[test]
        fn user_of_a_line_is_written_and_read_back(name in "\\PC{0,20}", rest in "(:\\PC{0,20})?") {
            let given = format!("{name}:{HASH}{rest}");
            if let Ok(Some((name, hash))) = parse(&given) {
                let written = line(&name, &hash).unwrap();
                assert_eq!(parse(&written), Ok(Some((name, hash))));
            }
        }

        #[test]
        fn arbitrary_line_does_not_panic(given in "(?s).{0,80}") {
            let _ = parse(&given);
        }
    }
}
