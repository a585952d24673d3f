//! The format of Apache's htpasswd: one `name:hash` line per user.
//!
//! Lines are read as Apache reads them. Blank lines and lines that begin with `#` are comments, and
//! so is the text after a second colon.

use super::imported_hash::{ImportedHash, ImportedHashError};
use crate::domain::{NameError, PasswordHash, UserName};

/// Parses a line. Returns `None` for a blank line or a comment.
///
/// # Errors
/// Fails with the reason why the line is invalid.
pub fn parse(line: &str) -> Result<Option<(UserName, ImportedHash)>, HtpasswdError> {
    let line = line.trim_matches([' ', '\t', '\r', '\n']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut fields = line.split(':');
    let (Some(name), Some(hash)) = (fields.next(), fields.next()) else {
        return Err(HtpasswdError::NoColon);
    };
    let name = UserName::parse(name).map_err(HtpasswdError::Name)?;
    match ImportedHash::parse(hash) {
        Ok(hash) => Ok(Some((name, hash))),
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

/// The reason why a line is refused. It contains no part of a hash.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// No colon separates a name from a hash.
    #[error("there is no colon in it")]
    NoColon,
    /// The name is invalid.
    #[error("what stands before the colon can't be a user's name: {0}")]
    Name(#[source] NameError),
    /// The hash of this user cannot be imported.
    #[error("the hash of {0} can't be used: {1}")]
    Hash(UserName, #[source] ImportedHashError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{HashError, LegacyError, LegacyScheme, PasswordError, StoredHash};

    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn user(name: &str) -> Option<(UserName, PasswordHash)> {
        Some((UserName::parse(name).unwrap(), PasswordHash::parse(HASH).unwrap()))
    }

    /// Parses a line with a bcrypt hash.
    fn parse_bcrypt(line: &str) -> Result<Option<(UserName, PasswordHash)>, HtpasswdError> {
        Ok(parse(line)?.map(|(name, hash)| match hash {
            ImportedHash::Stored(StoredHash { bcrypt, wrapped: None }) => (name, bcrypt),
            other => panic!("{other:?}"),
        }))
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
            assert_eq!(parse_bcrypt(&line), Ok(expected), "{line}");
        }
    }

    /// H-01
    #[test]
    fn line_may_hold_a_hash_of_a_legacy_scheme() {
        for (hash, scheme) in [
            ("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", LegacyScheme::Apr1),
            ("$1$28772684$iEwNOgGugqO9.bIz5sk8k/", LegacyScheme::Md5Crypt),
            ("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", LegacyScheme::Sha),
            ("{SSHA}AZKja92fbuuB9SpRlHqaoXxbTc43Mzc2MDM1Ng==", LegacyScheme::Ssha),
            (
                "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
                LegacyScheme::Sha256Crypt,
            ),
        ] {
            match parse(&format!("roy:{hash}:a comment")).unwrap() {
                Some((_, ImportedHash::Legacy(parsed))) => {
                    assert_eq!(parsed.params().scheme(), scheme);
                    assert_eq!(*parsed.canonical_text(), hash);
                }
                other => panic!("{other:?}"),
            }
        }
        match parse("roy:{PLAIN}open sesame").unwrap() {
            Some((_, ImportedHash::Plain(password))) => {
                assert_eq!(password.reveal(), "open sesame")
            }
            other => panic!("{other:?}"),
        }
    }

    /// L-05, C-05, C-06, C-08, H-05
    #[test]
    fn invalid_line_is_refused_with_its_problem() {
        let roy = || UserName::parse("roy").unwrap();
        let refused = |line: &str| parse(line).unwrap_err();
        assert_eq!(refused("roy"), HtpasswdError::NoColon);
        assert_eq!(refused(&format!(":{HASH}")), HtpasswdError::Name(NameError::Empty));
        let spaces = HtpasswdError::Name(NameError::Spaces);
        assert_eq!(refused(&format!("roy :{HASH}")), spaces);
        for (hash, scheme) in [
            ("rl7XqzpPWxLAY", "DES crypt"),
            ("{SMD5}aaaa", "salted MD5"),
            ("$y$j9T$salt$digest", "yescrypt"),
            ("$argon2id$v=19$m=65536,t=2,p=1$c2FsdA$aGFzaA", "Argon2"),
            ("open-sesame", "plain text, or one that is not known"),
            ("", "none at all"),
        ] {
            let error = ImportedHashError::Scheme(scheme);
            assert!(error.is_unsupported());
            assert_eq!(
                refused(&format!("roy:{hash}")),
                HtpasswdError::Hash(roy(), error),
                "{hash}"
            );
        }
        for (hash, why) in [
            (HASH.replacen("2y", "2x", 1), HashError::Flawed.into()),
            (HASH.replacen("05", "16", 1), HashError::Cost(16).into()),
            (HASH.replacen("C.E", "C/E", 1), HashError::Padding.into()),
            (HASH[..59].to_owned(), HashError::Length(59).into()),
            ("$apr1$salt$".to_owned(), LegacyError::DigestLength(0).into()),
            ("{SHA}open-sesame".to_owned(), LegacyError::Base64.into()),
            (format!("{{PLAIN}}{}", "p".repeat(73)), PasswordError::TooLong.into()),
            ("{PLAIN}".to_owned(), PasswordError::Empty.into()),
        ] {
            let why: ImportedHashError = why;
            assert!(!why.is_unsupported());
            assert_eq!(refused(&format!("roy:{hash}")), HtpasswdError::Hash(roy(), why), "{hash}");
        }
    }

    /// X-01
    #[test]
    fn error_contains_no_part_of_the_hash() {
        for line in [
            "roy:open-sesame",
            "roy:$2y$05$secret",
            "open-sesame",
            "roy:$apr1$secret$sesame",
            "roy:{SHA}sesame",
            "roy:{PLAIN}sesame\u{7}",
            "roy:$6$rounds=sesame$secret$",
        ] {
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
        assert_eq!(parse_bcrypt(&written), Ok(user("roy")));
        assert_eq!(line(&UserName::parse("#roy").unwrap(), &hash), None);
    }

    proptest::proptest! {
        /// L-05: a user that was read from a file is written unchanged.
        #[test]
        fn user_of_a_line_is_written_and_read_back(name in "\\PC{0,20}", rest in "(:\\PC{0,20})?") {
            let given = format!("{name}:{HASH}{rest}");
            if let Ok(Some((name, hash))) = parse_bcrypt(&given) {
                let written = line(&name, &hash).unwrap();
                assert_eq!(parse_bcrypt(&written), Ok(Some((name, hash))));
            }
        }

        #[test]
        fn arbitrary_line_does_not_panic(given in "(?s).{0,80}") {
            let _ = parse(&given);
        }
    }
}
