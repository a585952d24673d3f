//! Lines for the same user, found without the names: a large input has millions of lines.

use std::hash::{BuildHasher, RandomState};

use crate::domain::UserName;

/// The treatment of a second line for the same user.
#[derive(Clone, Copy)]
pub(super) enum Duplicates {
    Refuse,
    KeepFirst,
    KeepLast,
}

/// The lines of an input by digests of their users, 24 bytes for each.
///
/// A digest has 128 bits under random keys, so different names never have the same one in practice,
/// and the author of an input cannot choose such names.
pub(super) struct LineIndex {
    keys: [RandomState; 2],
    /// The lines by the first bits of the digest. Many small lists grow without a large copy.
    buckets: Vec<Vec<([u64; 2], usize)>>,
}

/// The first line for a user that has a line already.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct SecondLine {
    pub(super) number: usize,
    pub(super) first: usize,
}

impl Default for LineIndex {
    fn default() -> Self {
        Self { keys: Default::default(), buckets: vec![Vec::new(); 1 << Self::BUCKET_BITS] }
    }
}

impl LineIndex {
    const BUCKET_BITS: u32 = 8;

    /// Adds the line of a user. Line numbers increase.
    pub(super) fn add(&mut self, number: usize, user: &UserName) {
        let digest = self.keys.each_ref().map(|key| key.hash_one(user));
        let bucket = digest[0] >> (u64::BITS - Self::BUCKET_BITS);
        self.buckets[bucket as usize].push((digest, number));
    }

    /// Returns the number of lines.
    pub(super) fn count(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// Returns the lines to leave out, so that one line for each user is left, in order.
    ///
    /// # Errors
    /// Fails with the first second line, if that is refused.
    pub(super) fn left_out(self, duplicates: Duplicates) -> Result<Vec<usize>, SecondLine> {
        let mut left_out = Vec::new();
        let mut second: Option<SecondLine> = None;
        for mut lines in self.buckets {
            lines.sort_unstable();
            for lines in lines.chunk_by(|(one, _), (other, _)| one == other) {
                let [(_, first), (_, next), ..] = *lines else { continue };
                let numbers = lines.iter().map(|(_, number)| *number);
                match duplicates {
                    Duplicates::Refuse => {
                        if second.as_ref().is_none_or(|second| next < second.number) {
                            second = Some(SecondLine { number: next, first });
                        }
                    }
                    Duplicates::KeepFirst => left_out.extend(numbers.skip(1)),
                    Duplicates::KeepLast => left_out.extend(numbers.rev().skip(1)),
                }
            }
        }
        left_out.sort_unstable();
        second.map_or(Ok(left_out), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(names: &str, duplicates: Duplicates) -> Result<Vec<usize>, SecondLine> {
        let mut index = LineIndex::default();
        for (number, name) in (1..).zip(names.chars()) {
            index.add(number, &UserName::parse(&name.to_string()).unwrap());
        }
        assert_eq!(index.count(), names.len());
        index.left_out(duplicates)
    }

    #[test]
    fn one_line_is_kept_for_each_user() {
        for (names, first, last) in [
            ("", vec![], vec![]),
            ("abc", vec![], vec![]),
            ("aAb", vec![], vec![]),
            ("abcba", vec![4, 5], vec![1, 2]),
            ("aaaa", vec![2, 3, 4], vec![1, 2, 3]),
        ] {
            assert_eq!(left_out(names, Duplicates::KeepFirst), Ok(first), "{names}");
            assert_eq!(left_out(names, Duplicates::KeepLast), Ok(last), "{names}");
        }
    }

    #[test]
    fn refused_duplicate_is_the_first_second_line() {
        let refused = |names| left_out(names, Duplicates::Refuse);
        assert_eq!(refused("abc"), Ok(vec![]));
        assert_eq!(refused("abcba"), Err(SecondLine { number: 4, first: 2 }));
        assert_eq!(refused("aabb"), Err(SecondLine { number: 2, first: 1 }));
        assert_eq!(refused("abcaaa"), Err(SecondLine { number: 4, first: 1 }));
    }

    proptest::proptest! {
        #[test]
        fn kept_lines_are_those_of_a_map(names in "[a-e]{0,12}") {
            let mut last = std::collections::BTreeMap::new();
            let mut first = last.clone();
            for (number, name) in (1..).zip(names.chars()) {
                last.insert(name, number);
                first.entry(name).or_insert(number);
            }
            for (duplicates, kept) in
                [(Duplicates::KeepFirst, first), (Duplicates::KeepLast, last)]
            {
                let mut kept: Vec<_> = kept.into_values().collect();
                kept.extend(left_out(&names, duplicates).unwrap());
                kept.sort_unstable();
                assert_eq!(kept, (1..=names.len()).collect::<Vec<_>>());
            }
        }
    }
}
