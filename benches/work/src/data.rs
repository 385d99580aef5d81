//! Keys and values from a seed.

use bytes::Bytes;
use persist_core::Key;
use serde::{Deserialize, Serialize};

use crate::contender::Outcome;

/// How many bytes all values together have at most; where that is not one for every key, they are used in turn.
const MAX_BYTES: usize = 128 << 20;

/// A generator of random numbers: SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators",
/// 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }
}

/// All that keys and values are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// The seed of the values.
    pub seed: u64,
    /// How many keys.
    pub count: usize,
    /// How many bytes each value has.
    pub size: usize,
    /// Over how many folders the keys are spread.
    pub folders: usize,
}

/// The keys of a measurement, each with its value. The values do not compress.
#[derive(Debug)]
pub struct Data {
    seed: Seed,
    keys: Vec<Key>,
    values: Vec<Bytes>,
}

impl Data {
    /// Makes all keys and values.
    ///
    /// # Errors
    /// If a key were not valid.
    pub fn new(seed: Seed) -> Outcome<Self> {
        let mut random = Random::new(seed.seed);
        let values = seed.count.min(MAX_BYTES / seed.size.max(1)).max(2);
        let values = (0..values).map(|_| value(&mut random, seed.size)).collect();
        let keys = (0..seed.count).map(|i| name("item", i, seed.folders)).collect::<Outcome<_>>()?;
        Ok(Self { seed, keys, values })
    }

    /// What it was made from.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// A key of the space.
    pub fn key(&self, i: usize) -> &Key {
        &self.keys[i]
    }

    /// A key that is not among those of the space.
    ///
    /// # Errors
    /// If it were not valid.
    pub fn new_key(&self, i: usize) -> Outcome<Key> {
        name("new", i, self.seed.folders)
    }

    /// The value of a key.
    pub fn value(&self, i: usize) -> &Bytes {
        &self.values[i % self.values.len()]
    }

    /// Whether a value read looks like the one stored: its length and its first bytes. What is read in the timed part
    /// is checked so; before and after it every byte is compared.
    ///
    /// # Errors
    /// If it does not.
    pub fn looks_right(&self, i: usize, found: Option<&Bytes>) -> Outcome<()> {
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
        bytes.extend(random.draw().to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_neighbours_differ() {
        let made = |seed| Data::new(Seed { seed, count: 40, size: 128, folders: 1 }).unwrap();
        let (a, b, other) = (made(7), made(7), made(8));
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
