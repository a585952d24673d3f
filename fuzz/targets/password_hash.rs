//! A stored hash: what is taken for one can be computed, and not for minutes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use resttool::testing::{Cost, PasswordHash};

fuzz_target!(|text: &str| {
    let hash = match PasswordHash::parse(text) {
        Ok(hash) => hash,
        Err(why) => {
            let said = why.to_string();
            assert!(said.len() < 100 && !said.chars().any(char::is_control), "{said:?}");
            return;
        }
    };
    assert_eq!(hash.as_str(), text);
    assert!((Cost::MIN..=Cost::MAX).contains(&hash.cost().get()));
    assert!(!format!("{hash:?}").contains(&text[7..]));
    // The least cost alone: it takes a millisecond.
    if hash.cost().get() == Cost::MIN {
        assert!(bcrypt::verify("open-sesame", text).is_ok());
    }
});
