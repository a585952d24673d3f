//! A map of bounded size that evicts the least recently used entries first.
//!
//! It has two generations. A used entry moves to the young one. When that is full, it becomes the
//! old one, and the previous old one is dropped whole. So the more recently used half always stays,
//! no operation takes long, and memory is allocated once. Knows nothing of the meaning of an entry.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

pub(super) struct Bounded<K, V, S = RandomState> {
    young: HashMap<K, V, S>,
    old: HashMap<K, V, S>,
    half: usize,
}

/// A map with keyed digests as its keys. Any 8 bytes of such a digest are as good as a hash.
pub(super) type OfDigests<K, V> = Bounded<K, V, BuildHasherDefault<AsItIs>>;

/// A hasher that returns its input unchanged.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

impl<K: Copy + Eq + Hash, V, S: BuildHasher + Default> Bounded<K, V, S> {
    /// Makes a map of at most `most` entries, rounded up to an even number. A map of 0 entries
    /// stays empty.
    pub(super) fn new(most: usize) -> Self {
        let half = most.div_ceil(2);
        let map = || HashMap::with_capacity_and_hasher(half, S::default());
        Self { young: map(), old: map(), half }
    }

    /// Returns the value of a key, and counts it as used.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.insert(*key, value);
        }
        self.young.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.age();
        }
        if self.half > 0 {
            self.young.insert(key, value);
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Drops the old generation, and makes the young one the old one.
    pub(super) fn age(&mut self) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
    }

    /// Returns all entries, without counting them as used.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old)
    }

    /// Returns all values to change, without counting them as used.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.young.values_mut().chain(self.old.values_mut())
    }

    /// Drops the entries for which `keep` returns false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.young.retain(|_, value| keep(value));
        self.old.retain(|_, value| keep(value));
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_bounded_and_used_entries_stay() {
        let mut map = Bounded::<_, _>::new(8);
        map.insert(0, 0);
        for n in 1..1000_u32 {
            map.insert(n, n);
            assert!(map.len() <= 8);
            assert_eq!(map.get(&0), Some(&mut 0), "used every time");
            for recent in n.saturating_sub(2)..=n {
                assert!(map.young.contains_key(&recent) || map.old.contains_key(&recent));
            }
        }
        assert_eq!(map.get(&500), None);
    }

    #[test]
    fn key_has_one_value_until_it_is_removed() {
        let mut map = Bounded::<_, _>::new(4);
        map.insert(1, "a");
        map.age();
        map.insert(1, "b");
        assert_eq!((map.get(&1).copied(), map.len()), (Some("b"), 1));
        map.age();
        map.remove(&1);
        assert_eq!((map.get(&1).copied(), map.len()), (None, 0));
        map.insert(1, "c");
        map.age();
        map.age();
        assert_eq!(map.get(&1), None);
    }

    #[test]
    fn map_of_0_entries_stays_empty() {
        let mut map = Bounded::<_, _>::new(0);
        map.insert(1, 1);
        assert_eq!((map.get(&1).copied(), map.len()), (None, 0));
    }
}
