//! A user's name, as it comes from headers, files and arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use resttool::testing::{GroupName, UserName};

fuzz_target!(|raw: &str| {
    let name = match UserName::parse(raw) {
        Ok(name) => name,
        Err(why) => {
            // It is told in a line, and doesn't repeat what was typed, which may be a password.
            let said = why.to_string();
            assert!(said.len() < 100 && !said.chars().any(char::is_control), "{said:?}");
            assert!(GroupName::parse(raw).is_err());
            return;
        }
    };
    let text = name.as_str();
    assert_eq!(UserName::parse(text).as_ref(), Ok(&name), "it is its own name");
    assert!((1..=UserName::MAX_BYTES).contains(&text.len()));
    assert!(
        !text.chars().any(|c| c == ':' || c.is_control() || (c.is_whitespace() && c != ' ')),
        "{text:?}"
    );
    assert!(text.split(' ').all(|part| !part.is_empty()), "{text:?}");
    assert_eq!(GroupName::parse(raw).is_ok(), !text.contains([',', ' ']));
});
