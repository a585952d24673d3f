//! A line of an htpasswd file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use resttool::testing::htpasswd;

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
    let written = htpasswd::line(&name, &hash);
    // Only a comment can't be written, and what was read is none.
    assert_eq!(htpasswd::parse(&written.unwrap()), Ok(Some((name, hash))));
});
