//! MD5-crypt of Poul-Henning Kamp (FreeBSD's `crypt-md5.c`), and Apache's variant of it, which
//! differs in one string (APR's `apr_md5.c`).

use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// The length of a digest in bytes.
pub(super) const DIGEST: usize = 16;

/// The order of the bytes in the text of a digest.
pub(super) const ORDER: [usize; DIGEST] = [12, 6, 0, 13, 7, 1, 14, 8, 2, 15, 9, 3, 5, 10, 4, 11];

/// The fixed number of rounds.
const ROUNDS: usize = 1000;

/// Computes the digest. `ident` is `$1$` or `$apr1$`.
pub(super) fn digest(password: &[u8], salt: &[u8], ident: &str) -> Zeroizing<[u8; DIGEST]> {
    let alternate = md5([password, salt, password]);
    let mut hasher = Md5::new();
    hasher.update(password);
    hasher.update(ident);
    hasher.update(salt);
    for chunk in password.chunks(DIGEST) {
        hasher.update(alternate.get(..chunk.len()).unwrap_or_default());
    }
    // The original has cleared its digest by then, so that a one stands for a NUL. A zero stands for
    // the first byte of the password.
    let mut bits = password.len();
    while bits > 0 {
        hasher.update(if bits & 1 == 1 { &[0] } else { password.get(..1).unwrap_or_default() });
        bits >>= 1;
    }
    let mut digest: Zeroizing<[u8; DIGEST]> = Zeroizing::new(hasher.finalize().into());
    for round in 0..ROUNDS {
        let (first, last) = if round % 2 == 1 {
            (password, digest.as_slice())
        } else {
            (digest.as_slice(), password)
        };
        let salt = if round % 3 == 0 { &[] } else { salt };
        let middle = if round % 7 == 0 { &[] } else { password };
        digest = md5([first, salt, middle, last]);
    }
    digest
}

fn md5<const N: usize>(parts: [&[u8]; N]) -> Zeroizing<[u8; DIGEST]> {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    Zeroizing::new(hasher.finalize().into())
}
