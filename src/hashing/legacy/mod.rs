//! Hashes of legacy schemes, and the key that wraps them in bcrypt.
//!
//! The store holds no legacy hash, because many passwords per second can be tried against one. It
//! holds a bcrypt hash of the [`wrapping_key`], besides the parameters. A login computes the text of
//! the password shown under these parameters, and verifies its key. Decides neither which schemes
//! are imported nor when a hash is replaced.

mod md5_crypt;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha_crypt::Params;
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use crate::domain::{Cost, LegacyHash, LegacyParams, LegacyScheme};

/// The context of the key derivation. Stored hashes depend on it, so it never changes.
const CONTEXT: &str = "resttool 2026-11-26 wrapped legacy hash";

/// The first byte of a wrapping key. No password holds a control character.
const MARK: char = '\u{1}';

/// The length of a wrapping key in bytes: the mark, and 32 bytes in base64.
const KEY: usize = 45;

/// The rounds per 2^cost of [`max_rounds`].
const ROUNDS_PER_STEP: u32 = 5;

/// The order of the bytes in the text of a SHA-256-crypt digest (Drepper, step 22).
const SHA256_ORDER: [usize; 32] = [
    20, 10, 0, 11, 1, 21, 2, 22, 12, 23, 13, 3, 14, 4, 24, 5, 25, 15, 26, 16, 6, 17, 7, 27, 8, 28,
    18, 29, 19, 9, 30, 31,
];

/// The order of the bytes in the text of a SHA-512-crypt digest (Drepper, step 22).
const SHA512_ORDER: [usize; 64] = [
    42, 21, 0, 1, 43, 22, 23, 2, 44, 45, 24, 3, 4, 46, 25, 26, 5, 47, 48, 27, 6, 7, 49, 28, 29, 8,
    50, 51, 30, 9, 10, 52, 31, 32, 11, 53, 54, 33, 12, 13, 55, 34, 35, 14, 56, 57, 36, 15, 16, 58,
    37, 38, 17, 59, 60, 39, 18, 19, 61, 40, 41, 20, 62, 63,
];

/// Returns the canonical hash of this password, 1 to 1024 bytes without a NUL.
///
/// The time grows with the rounds and with the length of the password. The states of the SHA-2
/// hashers are not overwritten, since sha-crypt owns them.
pub fn text(params: &LegacyParams, password: &[u8]) -> Zeroizing<String> {
    let scheme = params.scheme();
    let salt = params.salt_octets();
    let digest = match scheme {
        LegacyScheme::Apr1 | LegacyScheme::Md5Crypt => {
            let digest = md5_crypt::digest(password, salt, scheme.ident());
            encode(&digest, md5_crypt::ORDER)
        }
        LegacyScheme::Sha | LegacyScheme::Ssha => {
            let sha1: Zeroizing<[u8; 20]> = Zeroizing::new(
                Sha1::new().chain_update(password).chain_update(salt).finalize().into(),
            );
            let octets = Zeroizing::new([sha1.as_slice(), salt].concat());
            Zeroizing::new(STANDARD.encode(octets.as_slice()))
        }
        LegacyScheme::Sha256Crypt => {
            let digest = sha_crypt::sha256_crypt(password, salt, sha_rounds(params));
            encode(&Zeroizing::new(digest), SHA256_ORDER)
        }
        LegacyScheme::Sha512Crypt => {
            let digest = sha_crypt::sha512_crypt(password, salt, sha_rounds(params));
            encode(&Zeroizing::new(digest), SHA512_ORDER)
        }
    };
    params.text_of(&digest)
}

/// Returns the rounds of valid parameters, which sha-crypt accepts all.
fn sha_rounds(params: &LegacyParams) -> Params {
    let rounds = params.effective_rounds();
    rounds.and_then(|rounds| Params::new(rounds).ok()).unwrap_or_default()
}

/// Encodes the bytes of a digest in this order, as crypt(5) does: 6 bits a character, the lowest
/// first.
fn encode<const N: usize>(digest: &[u8; N], order: [usize; N]) -> Zeroizing<String> {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // 4 characters for 3 bytes. A growing buffer would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(N.div_ceil(3) * 4));
    for group in order.chunks(3) {
        let bytes = group.iter().rev();
        let mut bits = bytes.fold(0, |bits, from| bits << 8 | usize::from(digest[*from]));
        for _ in 0..=group.len() {
            text.push(char::from(ALPHABET[bits & 63]));
            bits >>= 6;
        }
    }
    text
}

/// Returns the key that bcrypt hashes in place of the password: 45 bytes, none of them NUL.
///
/// It is 0x01 and the base64 of a BLAKE3 digest of the legacy hash. 0x01 stands in no password, so
/// a key is never accepted as one, even if a record has lost its parameters. An attacker who holds
/// an old htpasswd file therefore gains no password from it.
pub(crate) fn wrapping_key(text: &str) -> Zeroizing<Vec<u8>> {
    let digest = Zeroizing::new(blake3::derive_key(CONTEXT, text.as_bytes()));
    let mut key = Zeroizing::new(String::with_capacity(KEY));
    key.push(MARK);
    STANDARD.encode_string(digest.as_slice(), &mut key);
    Zeroizing::new(std::mem::take(&mut *key).into_bytes())
}

/// Returns the [`wrapping_key`] of this password under these parameters. See [`text`].
pub(crate) fn key_for(params: &LegacyParams, password: &[u8]) -> Zeroizing<Vec<u8>> {
    wrapping_key(&text(params, password))
}

/// Returns the [`wrapping_key`] of an imported hash.
pub(crate) fn key_of(hash: &LegacyHash) -> Zeroizing<Vec<u8>> {
    wrapping_key(&hash.canonical_text())
}

/// Returns the SHA-crypt rounds that take at most 5 % of a bcrypt of this cost: 5 times 2^cost, so
/// that the default of 5000 rounds is permitted from cost 10 on.
///
/// It is a model, so that a refusal depends on no machine. On an EPYC on 2026-11-26, bcrypt took 55
/// µs per 2^cost, of which 5 % are 2.8 µs. A round took
///
/// | password | SHA-256-crypt | without SHA-NI | SHA-512-crypt | without AVX2 |
/// | --- | --- | --- | --- | --- |
/// | 8 bytes | 0.10 µs | 0.42 µs | 0.29 µs | 0.35 µs |
/// | 64 bytes | 0.16 µs | 0.75 µs | 0.60 µs | 0.68 µs |
/// | 1024 bytes | 2.1 µs | 11 µs | 6.3 µs | 7.5 µs |
///
/// SHA-512-crypt of passwords over about 55 bytes exceeds the 5 %. See [`is_bounded`].
pub(crate) fn max_rounds(cost: Cost) -> u32 {
    ROUNDS_PER_STEP << cost.get()
}

/// Returns true if the digest of a candidate of this length takes at most twice the time that
/// [`max_rounds`] permits. The time of a longer candidate would tell that there is this user.
///
/// A round takes time for each 64 bytes. More rounds than permitted, which an administrator has
/// accepted, limit only candidates over 128 bytes.
pub(crate) fn is_bounded(params: &LegacyParams, length: usize, cost: Cost) -> bool {
    let rounds = u64::from(params.effective_rounds().unwrap_or(0));
    let blocks = length.div_ceil(64) as u64;
    rounds * blocks <= 2 * rounds.max(u64::from(max_rounds(cost)))
}
