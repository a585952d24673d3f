//! bcrypt of up to four passwords at once on one thread.
//!
//! bcrypt is limited by the latency of table look-ups, each of which depends on the one before it.
//! Independent computations fill the gaps, so four take little longer than one. Decides nothing
//! about passwords and hashes. The bcrypt crate is the oracle of the tests.

mod pi;

use zeroize::{Zeroize, Zeroizing};

use pi::{BOXES, SUBKEYS};

/// The most passwords at once. More would gain nothing.
pub(super) const MAX: usize = 4;

/// The length of a salt in bytes.
pub(super) const SALT: usize = 16;

/// The length of a digest in bytes.
pub(super) const DIGEST: usize = 23;

/// A password to hash, of 1 to 72 bytes, with its salt.
#[derive(Clone, Copy)]
pub(super) struct LaneInput<'a> {
    pub(super) password: &'a [u8],
    pub(super) salt: [u8; SALT],
}

/// Computes the digests of one to [`MAX`] inputs at this cost, in their order.
pub(super) fn digests(cost: u8, inputs: &[LaneInput<'_>]) -> Vec<[u8; DIGEST]> {
    match *inputs {
        [] => Vec::new(),
        [a] => interleaved(cost, [a]).to_vec(),
        [a, b] => interleaved(cost, [a, b]).to_vec(),
        [a, b, c] => interleaved(cost, [a, b, c]).to_vec(),
        [a, b, c, d, ref rest @ ..] => {
            let mut digests_of_all = interleaved(cost, [a, b, c, d]).to_vec();
            digests_of_all.extend(digests(cost, rest));
            digests_of_all
        }
    }
}

/// bcrypt, as Provos and Mazieres describe it ("A Future-Adaptable Password Scheme", 1999, section
/// 4), in `N` lanes.
fn interleaved<const N: usize>(cost: u8, inputs: [LaneInput<'_>; N]) -> [[u8; DIGEST]; N] {
    let keys = Zeroizing::new(inputs.map(|input| key_words(input.password)));
    let salts = inputs.map(|input| salt_words(&input.salt));
    let mut state = Box::new(Lanes::<N>::new());
    state.expand(&keys, &salts);
    let zero = [[0; 4]; N];
    let salt_keys = salts.map(|salt| std::array::from_fn(|n| salt[n % salt.len()]));
    for _ in 0..1u64 << cost {
        state.expand(&keys, &zero);
        state.expand(&salt_keys, &zero);
    }
    let words = state.encrypt_magic();
    words.map(|words| {
        let mut digest = [0; DIGEST];
        let bytes = words.into_iter().flat_map(u32::to_be_bytes);
        digest.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        digest
    })
}

/// Repeats the password and its NUL to the length of the subkeys.
fn key_words(password: &[u8]) -> [u32; 18] {
    let mut bytes = password.iter().copied().chain([0]).cycle();
    std::array::from_fn(|_| {
        u32::from_be_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()))
    })
}

fn salt_words(salt: &[u8; SALT]) -> [u32; 4] {
    std::array::from_fn(|n| u32::from_be_bytes(std::array::from_fn(|m| salt[4 * n + m])))
}

/// The states of Blowfish in `N` lanes.
struct Lanes<const N: usize> {
    subkeys: [[u32; 18]; N],
    boxes: [[[u32; 256]; 4]; N],
}

impl<const N: usize> Drop for Lanes<N> {
    fn drop(&mut self) {
        self.subkeys.zeroize();
        self.boxes.zeroize();
    }
}

impl<const N: usize> Lanes<N> {
    fn new() -> Self {
        Self { subkeys: [SUBKEYS; N], boxes: [BOXES; N] }
    }

    /// `ExpandKey`, with a salt that may be zero.
    fn expand(&mut self, keys: &[[u32; 18]; N], salts: &[[u32; 4]; N]) {
        for (subkeys, key) in self.subkeys.iter_mut().zip(keys) {
            for (subkey, word) in subkeys.iter_mut().zip(key) {
                *subkey ^= word;
            }
        }
        let (mut left, mut right) = ([0; N], [0; N]);
        // The salt takes turns with each block, through the subkeys and the boxes.
        let mut half = 0;
        let mut next = |lanes: &Self, left: &mut [u32; N], right: &mut [u32; N]| {
            for lane in 0..N {
                left[lane] ^= salts[lane][half];
                right[lane] ^= salts[lane][half + 1];
            }
            half ^= 2;
            lanes.encrypt(left, right);
        };
        for n in (0..18).step_by(2) {
            next(self, &mut left, &mut right);
            for lane in 0..N {
                self.subkeys[lane][n] = left[lane];
                self.subkeys[lane][n + 1] = right[lane];
            }
        }
        for table in 0..4 {
            for n in (0..256).step_by(2) {
                next(self, &mut left, &mut right);
                for lane in 0..N {
                    self.boxes[lane][table][n] = left[lane];
                    self.boxes[lane][table][n + 1] = right[lane];
                }
            }
        }
    }

    /// Encrypts one block in each lane.
    #[inline(always)]
    fn encrypt(&self, left: &mut [u32; N], right: &mut [u32; N]) {
        let (mut l, mut r) = (*left, *right);
        for (l, subkeys) in l.iter_mut().zip(&self.subkeys) {
            *l ^= subkeys[0];
        }
        for round in (1..17).step_by(2) {
            for lane in 0..N {
                r[lane] ^= self.subkeys[lane][round] ^ round_function(&self.boxes[lane], l[lane]);
            }
            for lane in 0..N {
                l[lane] ^=
                    self.subkeys[lane][round + 1] ^ round_function(&self.boxes[lane], r[lane]);
            }
        }
        for (r, subkeys) in r.iter_mut().zip(&self.subkeys) {
            *r ^= subkeys[17];
        }
        (*left, *right) = (r, l);
    }

    /// Encrypts the constant of bcrypt 64 times.
    fn encrypt_magic(&self) -> [[u32; 6]; N] {
        let magic = b"OrpheanBeholderScryDoubt";
        let words: [u32; 6] =
            std::array::from_fn(|n| u32::from_be_bytes(std::array::from_fn(|m| magic[4 * n + m])));
        let mut text = [words; N];
        for block in (0..6).step_by(2) {
            let mut left = text.map(|words| words[block]);
            let mut right = text.map(|words| words[block + 1]);
            for _ in 0..64 {
                self.encrypt(&mut left, &mut right);
            }
            for lane in 0..N {
                text[lane][block] = left[lane];
                text[lane][block + 1] = right[lane];
            }
        }
        text
    }
}

#[inline(always)]
fn round_function(boxes: &[[u32; 256]; 4], x: u32) -> u32 {
    let [a, b, c, d] = x.to_be_bytes();
    (boxes[0][usize::from(a)].wrapping_add(boxes[1][usize::from(b)]) ^ boxes[2][usize::from(c)])
        .wrapping_add(boxes[3][usize::from(d)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_crate(cost: u8, input: &LaneInput<'_>) -> [u8; DIGEST] {
        let key: Vec<u8> = input.password.iter().copied().chain([0]).take(72).collect();
        let whole = bcrypt::bcrypt(u32::from(cost), input.salt, &key);
        std::array::from_fn(|n| whole[n])
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]

        /// H-10: one to four lanes, and a fifth input, give the results of the bcrypt crate.
        #[test]
        fn lanes_agree_with_the_bcrypt_crate(
            cost in 4u8..=6,
            inputs in proptest::collection::vec(
                (proptest::collection::vec(1u8..=255, 1..=72), proptest::array::uniform16(0u8..)),
                0..=5,
            ),
        ) {
            let inputs: Vec<_> = inputs
                .iter()
                .map(|(password, salt)| LaneInput { password, salt: *salt })
                .collect();
            let expected: Vec<_> = inputs.iter().map(|input| by_crate(cost, input)).collect();
            assert_eq!(digests(cost, &inputs), expected);
        }
    }

    /// H-10: the longest password fills the subkeys without a NUL.
    #[test]
    fn key_is_repeated_with_its_nul() {
        assert_eq!(key_words(b"abc")[..2], [0x6162_6300, 0x6162_6300]);
        assert_eq!(key_words(b"a")[..2], [0x6100_6100; 2]);
        let longest = [b'x'; 72];
        assert_eq!(key_words(&longest), [0x7878_7878; 18]);
    }
}
