use super::*;

/// Passwords and hashes that other programs have published.
const VECTORS: [(&str, &str); 24] = [
    // Apache HTTP Server, "Password Formats".
    ("myPassword", "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/"),
    ("myPassword", "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="),
    // John the Ripper, the tests of its format md5crypt.
    ("test", "$apr1$Q6ZYh...$RV6ft2bZ8j.NGrxLYaJt9."),
    ("15 chars is max", "$apr1$a2Jqm...$grFrwEgiQleDr0zR4Jx1b."),
    ("0123456789ABCDE", "$1$12345678$aIccj83HRDBo6ux1bVx7D1"),
    ("12345678", "$1$12345678$f8QoJuo0DpBRfQSD0vglc1"),
    ("12345", "$1$7Uu2iTBB$Y4hQl2WvrOA3LBbLDxbAf0"),
    ("1234", "$1$1234$BdIMOAWFOV2AQlLsrN/Sw."),
    ("no salt", "$1$$AuJCr07mI7DSew03TmBIv/"),
    // hashcat, "Example hashes": modes 1600, 500, 101, 111, 7400 and 1800.
    ("hashcat", "$apr1$71850310$gh9m4xcAn3MGxogwX/ztb."),
    ("hashcat", "$1$28772684$iEwNOgGugqO9.bIz5sk8k/"),
    ("hashcat", "{SHA}uJ6qx+YUFzQbcQtyd2gpTQ5qJ3s="),
    ("hashcat", "{SSHA}AZKja92fbuuB9SpRlHqaoXxbTc43Mzc2MDM1Ng=="),
    ("hashcat", "$5$rounds=5000$GX7BopJZJxPc/KEK$le16UF8I2Anb.rOrn22AUPWvzUETDGefUmAV8AZkGcD"),
    (
        "hashcat",
        "$6$52450745$k5ka2p8bFuSmoVT1tzOyyuaREkkKBcCNqoDKzYiJL9RaE8yMnPgh2XzzF0NDrUhgrcLwg78xs1w5pJiypEdFX/",
    ),
    // Drepper, "Unix crypt using SHA-256 and SHA-512": its test vectors, with the salts as written.
    ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    (
        "Hello world!",
        "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
    ),
    (
        "This is just a test",
        "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5",
    ),
    (
        "a very much longer text to encrypt.  This one even stretches over morethan one line.",
        "$5$rounds=1400$anotherlongsalts$Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1",
    ),
    (
        "a short string",
        "$5$rounds=123456$asaltof16chars..$gP3VQ/6X7UUEW3HkBn2w1/Ptq2jxPyzV/cZKmF/wJvD",
    ),
    (
        "the minimum number is still observed",
        "$5$rounds=1000$roundstoolow$yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC",
    ),
    (
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        "Hello world!",
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        "the minimum number is still observed",
        "$6$rounds=1000$roundstoolow$kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xhLsPuWGsUSklZt58jaTfF4ZEQpyUNGc0dqbpBYYBaHHrsX.",
    ),
];

fn parsed(text: &str) -> LegacyHash {
    LegacyHash::parse(text).unwrap()
}

#[test]
fn published_hashes_are_computed() {
    for (password, hash) in VECTORS {
        assert_eq!(*text(parsed(hash).params(), password.as_bytes()), hash, "{password}");
    }
}

#[test]
fn key_of_a_hash_is_that_of_its_password_alone() {
    for (password, hash) in VECTORS {
        let hash = parsed(hash);
        let key = key_of(&hash);
        assert_eq!(key_for(hash.params(), password.as_bytes()), key);
        assert_ne!(key_for(hash.params(), &password.as_bytes()[1..]), key);
        assert_ne!(key_for(hash.params(), format!("{password}\n").as_bytes()), key);
    }
}

/// The stored hashes of every release depend on this one.
#[test]
fn wrapping_key_never_changes() {
    let key = wrapping_key("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/");
    assert_eq!(key.as_slice(), b"\x01lBH+RaeDWLzpz0ceEEXnnVXmE9fKJ8y2+vg71w7Lc1I=");
    assert_eq!(key.len(), KEY);
}

/// C-01: bcrypt reads the key to its end, and no login can show it.
#[test]
fn wrapping_key_is_no_password() {
    for (_, hash) in VECTORS {
        let key = key_of(&parsed(hash));
        assert!(key.len() <= crate::domain::Password::MAX_BYTES && !key.contains(&0));
        let shown = std::str::from_utf8(&key).unwrap();
        assert!(crate::domain::Password::parse(shown).is_err());
    }
}

#[test]
fn rounds_of_a_cost_double_with_each_step() {
    let rounds = |cost| max_rounds(Cost::new(cost).unwrap());
    assert_eq!(rounds(9), 2560);
    assert_eq!(rounds(10), 5120);
    assert_eq!(rounds(12), 20_480);
    for cost in Cost::MIN..Cost::MAX {
        assert_eq!(rounds(cost + 1), 2 * rounds(cost));
    }
    assert!(rounds(Cost::MAX) < LegacyParams::MAX_ROUNDS);
}

/// H-12: the longer the candidate, the fewer rounds. A short one is always computed.
#[test]
fn long_candidates_are_bounded_by_rounds_and_cost() {
    let bounded = |rounds, length, cost| {
        let params = LegacyParams::new(LegacyScheme::Sha512Crypt, "salt", rounds).unwrap();
        is_bounded(&params, length, Cost::new(cost).unwrap())
    };
    for (rounds, longest, cost) in [
        (None, 8 * 64, 12),
        (None, 2 * 64, 10),
        (Some(1000), 1024, 11),
        (Some(20_480), 128, 12),
        // Permitted by an administrator.
        (Some(1_000_000), 128, 12),
        (None, 128, 4),
    ] {
        assert!(bounded(rounds, longest, cost), "{rounds:?} {cost}");
        let longer = longest + 1;
        assert!(longer > 1024 || !bounded(rounds, longer, cost), "{rounds:?} {cost}");
    }
    let apr1 = LegacyParams::new(LegacyScheme::Apr1, "salt", None).unwrap();
    assert!(is_bounded(&apr1, 1024, Cost::DEFAULT), "its rounds are few and fixed");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// A computed hash is accepted, and belongs to its password alone.
    #[test]
    fn computed_hash_is_parsed_with_its_parameters(
        index in 0..LegacyScheme::ALL.len(),
        salt in "[!#%-9;-~]{1,8}",
        rounds in proptest::option::of(1000u32..2000),
        password in proptest::collection::vec(1u8..=255, 1..=100),
        other in proptest::collection::vec(1u8..=255, 1..=100),
    ) {
        let scheme = LegacyScheme::ALL[index];
        let (salt, rounds) = match scheme {
            LegacyScheme::Sha => (String::new(), None),
            LegacyScheme::Ssha => (STANDARD.encode(salt), None),
            LegacyScheme::Apr1 | LegacyScheme::Md5Crypt => (salt, None),
            LegacyScheme::Sha256Crypt | LegacyScheme::Sha512Crypt => (salt, rounds),
        };
        let params = LegacyParams::new(scheme, &salt, rounds).unwrap();
        let made = text(&params, &password);
        let hash = LegacyHash::parse(&made).unwrap();
        assert_eq!(hash.params(), &params);
        assert_eq!(hash.canonical_text(), made);
        assert_eq!(key_of(&hash), key_for(&params, &password));
        assert_eq!(*text(&params, &other) == *made, password == other);
    }
}
