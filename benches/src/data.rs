//! Keys and values from a seed.

use bytes::Bytes;
use persist_core::Key;

use crate::contender::Outcome;

/// How many bytes all values together have at most; where that is not one for every key, they are used in turn.
const MAX_BYTES: usize = 128 << 20;

/// A generator of random numbers: SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators",
/// 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// The keys of a measurement, each with its value. The values do not compress.
#[derive(Debug)]
pub(crate) struct Data {
    keys: Vec<Key>,
    values: Vec<Bytes>,
    folders: usize,
}

impl Data {
    pub(crate) fn new(seed: u64, count: usize, size: usize, folders: usize) -> Outcome<Self> {
        let mut random = Random::new(seed);
        let values = count.min(MAX_BYTES / size.max(1)).max(2);
        let values = (0..values).map(|_| value(&mut random, size)).collect();
        let keys = (0..count).map(|i| name("item", i, folders)).collect::<Outcome<_>>()?;
        Ok(Self { keys, values, folders })
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn key(&self, i: usize) -> &Key {
        &self.keys[i]
    }

    /// A key that is not among those of the space.
    pub(crate) fn new_key(&self, i: usize) -> Outcome<Key> {
        name("new", i, self.folders)
    }

    pub(crate) fn value(&self, i: usize) -> &Bytes {
        &self.values[i % self.values.len()]
    }

    /// Whether a value read looks like the one stored: its length and its first bytes. What is read in the timed part
    /// is checked so; before and after it every byte is compared.
    pub(crate) fn looks_right(&self, i: usize, found: Option<&Bytes>) -> Outcome<()> {
        let stored = self.value(i);
        match found {
            Some(found) if found.len() == stored.len() && found[..16] == stored[..16] => Ok(()),
            Some(_) => Err(format!("value {i} is another one than was stored").into()),
            None => Err(format!("value {i} is missing").into()),
        }
    }
}

fn name(word: &str, i: usize, folders: usize) -> Outcome<Key> {
    let text = match folders {
        0 | 1 => format!("{word}-{i:07}"),
        folders => format!("folder-{:03}/{word}-{i:07}", i % folders),
    };
    Ok(Key::new(text)?)
}

fn value(random: &mut Random, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_neighbours_differ() {
        let (a, b) = (Data::new(7, 40, 128, 1).unwrap(), Data::new(7, 40, 128, 1).unwrap());
        let other = Data::new(8, 40, 128, 1).unwrap();
        for i in 0..39 {
            assert_eq!((a.key(i), a.value(i)), (b.key(i), b.value(i)));
            assert_ne!(a.value(i), a.value(i + 1));
            assert_ne!(a.value(i), other.value(i));
        }
        assert!(a.looks_right(3, Some(b.value(3))).is_ok());
        assert!(a.looks_right(3, Some(b.value(4))).is_err());
        assert!(a.looks_right(3, None).is_err());
    }
}
