//! A hash of a legacy scheme: an accepted one has one spelling, and can be computed in a second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use resttool::testing::{LegacyHash, LegacyParams, legacy_text};

fuzz_target!(|text: &str| {
    let hash = match LegacyHash::parse(text) {
        Ok(hash) => hash,
        Err(why) => {
            let said = why.to_string();
            assert!(said.len() < 100 && !said.chars().any(char::is_control), "{said:?}");
            return;
        }
    };
    let canonical = hash.canonical_text();
    assert_eq!(canonical.trim_end_matches('='), text.trim_end_matches('='));
    assert_eq!(LegacyHash::parse(&canonical).as_ref(), Ok(&hash));
    let params = hash.params();
    let again = LegacyParams::new(params.scheme(), params.salt(), params.rounds());
    assert_eq!(again.as_ref(), Ok(params));
    let rounds = params.effective_rounds().unwrap_or_default();
    assert!(rounds <= LegacyParams::MAX_ROUNDS);
    // 5000 rounds and fewer: they take milliseconds.
    if rounds <= 5000 {
        let made = legacy_text(params, b"open-sesame");
        assert_eq!(made.len(), canonical.len());
        assert_eq!(LegacyHash::parse(&made).unwrap().params(), params);
    }
});
