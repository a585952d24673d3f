//! Hashes of legacy schemes, compared with those of the programs that write them.

use std::process::Command;

use resttool::testing::{LegacyHash, LegacyParams, LegacyScheme, legacy_text};

use crate::support::cli::finish;

/// Random passwords per scheme.
const PASSWORDS: usize = 200;

/// Returns a password of 1 to 100 bytes, every other one of ASCII. Programs read lines and
/// arguments, so none holds NUL or a line end.
fn password(index: usize) -> Vec<u8> {
    let mut random = [0; 101];
    getrandom::fill(&mut random).unwrap();
    let (length, bytes) = random.split_first().unwrap();
    let bytes = bytes.iter().take(1 + usize::from(*length) % 100);
    bytes
        .map(|byte| if index.is_multiple_of(2) { b' ' + byte % 95 } else { *byte })
        .map(|byte| if matches!(byte, 0 | b'\n' | b'\r') { b'x' } else { byte })
        .collect()
}

/// Returns up to `most` characters that libxcrypt accepts in a salt.
fn salt(most: usize) -> String {
    let mut random = [0; 17];
    getrandom::fill(&mut random).unwrap();
    let alphabet = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let (length, bytes) = random.split_first().unwrap();
    let bytes = bytes.iter().take(usize::from(*length) % (most + 1));
    bytes.map(|byte| char::from(alphabet[usize::from(byte % 64)])).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn output(command: Command, input: impl AsRef<[u8]>) -> String {
    let what = format!("{command:?}");
    let outcome = finish(command, input);
    assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
    outcome.stdout
}

/// Checks that a hash of another program is accepted, and is the one that we compute.
fn assert_ours(theirs: &str, password: &[u8]) {
    let hash = LegacyHash::parse(theirs).unwrap_or_else(|e| panic!("{theirs}: {e}"));
    assert_eq!(*hash.canonical_text(), theirs);
    assert_eq!(*legacy_text(hash.params(), password), theirs, "{}", hex(password));
}

/// L-05
#[test]
#[ignore = "needs openssl"]
fn openssl_computes_the_same_legacy_hashes() {
    let per_salt = 20;
    for (option, most) in [("-apr1", 8), ("-1", 8), ("-5", 16), ("-6", 16)] {
        for _ in 0..PASSWORDS / per_salt {
            let mut passwords: Vec<_> = (0..per_salt).map(password).collect();
            // OpenSSL refuses an empty salt of SHA-crypt, and takes more than the letters.
            let salt = format!("{}*", salt(most - 1));
            let mut openssl = Command::new("openssl");
            openssl.args(["passwd", option, "-salt", &salt, "-stdin"]);
            let made = output(openssl, [passwords.join(&b'\n'), b"\n".to_vec()].concat());
            assert_eq!(made.lines().count(), per_salt);
            for (theirs, password) in made.lines().zip(passwords.drain(..)) {
                assert_ours(theirs, &password);
            }
        }
    }
}

/// L-05
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_computes_the_same_legacy_hashes() {
    for options in ["-nim", "-nis", "-ni2", "-ni5", "-ni5 -r 1234"] {
        for index in 0..PASSWORDS / 5 {
            let password = password(index);
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.args(options.split(' ')).arg("roy");
            let made = output(htpasswd, &password);
            assert_ours(made.trim_end().strip_prefix("roy:").unwrap(), &password);
        }
    }
}

/// L-05
#[test]
#[ignore = "needs perl"]
fn crypt_and_perl_compute_the_same_legacy_hashes() {
    // crypt(3) of the system, and SHA-1 of Perl, for lines of a setting and a password in hex.
    let script = r#"
        use Digest::SHA "sha1"; use MIME::Base64;
        while (<STDIN>) {
            my ($setting, $password) = map { pack "H*", $_ } split;
            if ($setting =~ s/^\{SSHA\}//) {
                print "{SSHA}", encode_base64(sha1($password, $setting) . $setting, ""), "\n";
            } else {
                print crypt($password, $setting), "\n";
            }
        }
    "#;
    for scheme in ["$1$", "$5$", "$5$rounds=1000$", "$6$", "$6$rounds=5000$", "{SSHA}"] {
        let most = if scheme == "$1$" { 8 } else { 16 };
        let passwords: Vec<_> = (0..PASSWORDS).map(password).collect();
        let lines = passwords.iter().map(|password| {
            // An LDAP server never writes an empty salt.
            let salt = if scheme == "{SSHA}" { format!("{}/", salt(most)) } else { salt(most) };
            format!("{} {}\n", hex(format!("{scheme}{salt}").as_bytes()), hex(password))
        });
        let mut perl = Command::new("perl");
        perl.args(["-e", script]);
        let made = output(perl, lines.collect::<String>());
        assert_eq!(made.lines().count(), PASSWORDS);
        for (theirs, password) in made.lines().zip(&passwords) {
            assert_ours(theirs, password);
        }
    }
}

/// A salt that libxcrypt refuses, and htpasswd verifies.
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_verifies_an_unusual_salt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    for salt in ["a b!*;\\~", "", "é"] {
        let Ok(params) = LegacyParams::new(LegacyScheme::Apr1, salt, None) else {
            assert_eq!(salt, "é");
            continue;
        };
        let made = legacy_text(&params, b"open-sesame");
        std::fs::write(&file, format!("roy:{}\n", *made)).unwrap();
        for (password, code) in [("open-sesame", 0), ("open-sesamE", 3)] {
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.arg("-vb").arg(&file).args(["roy", password]);
            assert_eq!(finish(htpasswd, "").code, code, "{salt}: {password}");
        }
    }
}
