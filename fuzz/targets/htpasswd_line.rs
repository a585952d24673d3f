//! A line of an htpasswd file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use resttool::testing::{ImportedHash, StoredHash, htpasswd};

fuzz_target!(|given: &str| {
    let (name, hash) = match htpasswd::parse(given) {
        Ok(Some(user)) => user,
        Ok(None) => return,
        Err(why) => {
            // It is told on one line of some words and a name at most.
            let said = why.to_string();
            assert!(said.len() < 300 && !said.chars().any(char::is_control), "{said:?}");
            return;
        }
    };
    let ImportedHash::Stored(StoredHash { bcrypt, wrapped }) = hash else { return };
    assert_eq!(wrapped, None);
    let written = htpasswd::line(&name, &bcrypt);
    // Only a comment can't be written, and what was read is none.
    match htpasswd::parse(&written.unwrap()) {
        Ok(Some((again, ImportedHash::Stored(hash)))) => {
            assert_eq!((again, hash), (name, bcrypt.into()));
        }
        other => panic!("{other:?}"),
    }
});
