//! The index of a sealed pack: its keys in byte order, a hash table over them and one over the contents. It is mapped
//! into memory and looked at where it is needed; opening a pack reads its first hundred bytes.

use persist_core::Checksum;

use crate::wire::{Reader, Wrong};

const MAGIC: &[u8; 8] = b"prsindex";

/// The header of an index, in bytes.
const HEADER: usize = 64;

/// An entry, in bytes.
const ENTRY: usize = 48;

/// A slot of the table of keys: a fingerprint and the number of an entry.
const KEY_SLOT: usize = 8;

/// A slot of the table of contents: a fingerprint and the offset of a record.
const CONTENT_SLOT: usize = 16;

const TOMBSTONE: u16 = 1;
const EXPIRES: u16 = 2;
const REFERENCE: u16 = 4;

/// What the index says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'b> {
    pub(crate) key: &'b str,
    /// Where its record lies.
    pub(crate) at: u64,
    /// How long the record is.
    pub(crate) len: u64,
    /// The size of its value.
    pub(crate) size: u64,
    /// When it expires, in milliseconds since 1970.
    pub(crate) expires_at: Option<i64>,
    pub(crate) is_tombstone: bool,
    pub(crate) is_reference: bool,
}

/// Makes the index of entries in byte order and of contents (checksum and offset of the record) in the order of the log.
pub(crate) fn build(entries: &[Entry<'_>], contents: &[(Checksum, u64)]) -> Vec<u8> {
    let key_slots = slots_for(entries.len());
    let content_slots = slots_for(contents.len());
    let key_bytes: usize = entries.iter().map(|entry| entry.key.len()).sum();
    let keys_at = HEADER + entries.len() * ENTRY;
    let key_table = keys_at + key_bytes;
    let content_table = key_table + key_slots * KEY_SLOT;
    let total = content_table + content_slots * CONTENT_SLOT;
    let mut bytes = Vec::with_capacity(total);
    bytes.extend(MAGIC);
    for number in [entries.len(), keys_at, key_table, key_slots, content_table, content_slots, total] {
        bytes.extend((number as u64).to_le_bytes());
    }
    let mut key_at = keys_at as u64;
    for entry in entries {
        put_entry(&mut bytes, entry, key_at);
        key_at += entry.key.len() as u64;
    }
    entries.iter().for_each(|entry| bytes.extend(entry.key.as_bytes()));
    bytes.resize(total, 0);
    for (number, entry) in entries.iter().enumerate() {
        put_key(&mut bytes[key_table..content_table], entry.key, number);
    }
    for (checksum, at) in contents {
        put_content(&mut bytes[content_table..], checksum, *at);
    }
    bytes
}

fn put_entry(to: &mut Vec<u8>, entry: &Entry<'_>, key_at: u64) {
    let flag = |on: bool, flag: u16| if on { flag } else { 0 };
    let flags = flag(entry.is_tombstone, TOMBSTONE)
        | flag(entry.expires_at.is_some(), EXPIRES)
        | flag(entry.is_reference, REFERENCE);
    for number in [entry.at, entry.len, entry.size] {
        to.extend(number.to_le_bytes());
    }
    to.extend(entry.expires_at.unwrap_or(0).to_le_bytes());
    to.extend(key_at.to_le_bytes());
    to.extend(u16::try_from(entry.key.len()).unwrap_or(u16::MAX).to_le_bytes());
    to.extend(flags.to_le_bytes());
    to.extend([0; 4]);
}

/// A third of the slots stays free.
fn slots_for(count: usize) -> usize {
    count + count / 2 + 1
}

/// The slot to begin with: the high half of a product spreads a hash over any number of slots without a division.
fn first_slot(hash: u64, slots: u64) -> u64 {
    let product = u128::from(hash) * u128::from(slots);
    u64::try_from(product >> 64).unwrap_or(0)
}

/// FNV-1a over the bytes of a key, then the finaliser of MurmurHash3, so that all bits depend on all bytes.
pub(crate) fn hash_of(key: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The low half of a hash; the high half chose the slot.
fn fingerprint(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0)
}

/// The fingerprint of a content: the first eight bytes of its checksum, which are as good as random.
fn content_mark(checksum: &Checksum) -> u64 {
    let (front, _) = checksum.as_bytes().split_at(8);
    u64::from_le_bytes(front.try_into().unwrap_or_default())
}

fn put_key(table: &mut [u8], key: &str, number: usize) {
    let (hash, slots) = (hash_of(key), (table.len() / KEY_SLOT) as u64);
    let mut slot = usize::try_from(first_slot(hash, slots)).unwrap_or(0);
    loop {
        let at = slot * KEY_SLOT;
        if table[at + 4..at + 8] == [0; 4] {
            table[at..at + 4].copy_from_slice(&fingerprint(hash).to_le_bytes());
            let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
            table[at + 4..at + 8].copy_from_slice(&number.to_le_bytes());
            return;
        }
        slot = (slot + 1) % (table.len() / KEY_SLOT);
    }
}

/// The first record with a content counts. No record lies at offset 0: there the pack says what it is.
fn put_content(table: &mut [u8], checksum: &Checksum, offset: u64) {
    let (mark, slots) = (content_mark(checksum), (table.len() / CONTENT_SLOT) as u64);
    let mut slot = usize::try_from(first_slot(mark, slots)).unwrap_or(0);
    loop {
        let at = slot * CONTENT_SLOT;
        if table[at + 8..at + 16] == [0; 8] {
            table[at..at + 8].copy_from_slice(&mark.to_le_bytes());
            table[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            return;
        }
        slot = (slot + 1) % (table.len() / CONTENT_SLOT);
    }
}

/// Where the bytes of an index come from; they are checked when they are first looked at.
pub(crate) trait Sheet {
    /// A part of the index.
    ///
    /// # Errors
    /// That it is damaged.
    fn part(&self, start: u64, len: u64) -> Result<&[u8], Wrong>;
}

const BROKEN: Wrong = Wrong("its index is wrong");

/// The shape of an index that lies in a sheet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Index {
    count: u64,
    key_table: u64,
    key_slots: u64,
    content_table: u64,
    content_slots: u64,
    keys_at: u64,
}

impl Index {
    /// Reads the header of an index of `len` bytes.
    pub(crate) fn open(sheet: &dyn Sheet, len: u64) -> Result<Self, Wrong> {
        let mut from = Reader::new(sheet.part(0, HEADER as u64)?);
        if from.array::<8>()? != *MAGIC {
            return Err(BROKEN);
        }
        let count = from.u64()?;
        let (keys_at, key_table, key_slots) = (from.u64()?, from.u64()?, from.u64()?);
        let (content_table, content_slots, total) = (from.u64()?, from.u64()?, from.u64()?);
        let follows = |start: u64, count: u64, size: usize| {
            count.checked_mul(size as u64).and_then(|bytes| bytes.checked_add(start))
        };
        let fits = follows(HEADER as u64, count, ENTRY) == Some(keys_at)
            && keys_at <= key_table
            && follows(key_table, key_slots, KEY_SLOT) == Some(content_table)
            && follows(content_table, content_slots, CONTENT_SLOT) == Some(total)
            && key_slots > count
            && content_slots > 0
            && total == len;
        if !fits {
            return Err(BROKEN);
        }
        Ok(Self { count, key_table, key_slots, content_table, content_slots, keys_at })
    }

    /// How many keys there are, tombstones included.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Where the record of the entry of a number lies.
    pub(crate) fn at(&self, sheet: &dyn Sheet, number: u64) -> Result<u64, Wrong> {
        Reader::new(sheet.part(HEADER as u64 + number * ENTRY as u64, ENTRY as u64)?).u64()
    }

    /// The entry of a number, in byte order of the keys.
    pub(crate) fn entry<'b>(&self, sheet: &'b dyn Sheet, number: u64) -> Result<Entry<'b>, Wrong> {
        if number >= self.count {
            return Err(BROKEN);
        }
        let mut from = Reader::new(sheet.part(HEADER as u64 + number * ENTRY as u64, ENTRY as u64)?);
        let (at, len, size) = (from.u64()?, from.u64()?, from.u64()?);
        let expires_at = from.u64()?.cast_signed();
        let (key_at, key_len, flags) = (from.u64()?, from.u16()?, from.u16()?);
        let end = key_at.checked_add(u64::from(key_len)).ok_or(BROKEN)?;
        if key_at < self.keys_at || end > self.key_table {
            return Err(BROKEN);
        }
        let key = std::str::from_utf8(sheet.part(key_at, u64::from(key_len))?).map_err(|_| BROKEN)?;
        let expires_at = (flags & EXPIRES != 0).then_some(expires_at);
        let (is_tombstone, is_reference) = (flags & TOMBSTONE != 0, flags & REFERENCE != 0);
        Ok(Entry { key, at, len, size, expires_at, is_tombstone, is_reference })
    }

    /// The entry of a key with this [hash](hash_of).
    pub(crate) fn find<'b>(
        &self,
        sheet: &'b dyn Sheet,
        key: &str,
        hash: u64,
    ) -> Result<Option<Entry<'b>>, Wrong> {
        let (mut slot, mark) = (first_slot(hash, self.key_slots), fingerprint(hash));
        for _ in 0..self.key_slots {
            let bytes = sheet.part(self.key_table + slot * KEY_SLOT as u64, KEY_SLOT as u64)?;
            let mut from = Reader::new(bytes);
            let (found, number) = (from.u32()?, from.u32()?);
            if number == 0 {
                return Ok(None);
            }
            if found == mark {
                let entry = self.entry(sheet, u64::from(number) - 1)?;
                if entry.key == key {
                    return Ok(Some(entry));
                }
            }
            slot = (slot + 1) % self.key_slots;
        }
        Err(BROKEN)
    }

    /// The offsets of records that may hold a content; the first whose checksum is right does.
    pub(crate) fn contents(&self, sheet: &dyn Sheet, checksum: &Checksum) -> Result<Vec<u64>, Wrong> {
        let mark = content_mark(checksum);
        let mut slot = first_slot(mark, self.content_slots);
        let mut found = Vec::new();
        for _ in 0..self.content_slots {
            let bytes = sheet.part(self.content_table + slot * CONTENT_SLOT as u64, CONTENT_SLOT as u64)?;
            let mut from = Reader::new(bytes);
            let (seen, at) = (from.u64()?, from.u64()?);
            if at == 0 {
                return Ok(found);
            }
            if seen == mark {
                found.push(at);
            }
            slot = (slot + 1) % self.content_slots;
        }
        Err(BROKEN)
    }

    /// The number of the first entry whose key is not before `key` (`after`: behind it).
    pub(crate) fn seek(&self, sheet: &dyn Sheet, key: &str, after: bool) -> Result<u64, Wrong> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.entry(sheet, middle)?.key;
            if found < key || (after && found == key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;

    struct Memory(Vec<u8>);

    impl Sheet for Memory {
        fn part(&self, start: u64, len: u64) -> Result<&[u8], Wrong> {
            let (start, len) = (usize::try_from(start).unwrap(), usize::try_from(len).unwrap());
            start.checked_add(len).and_then(|end| self.0.get(start..end)).ok_or(BROKEN)
        }
    }

    fn entries(keys: &[String]) -> Vec<Entry<'_>> {
        keys.iter()
            .enumerate()
            .map(|(at, key)| Entry {
                key,
                at: at as u64 * 10 + 1,
                len: 9,
                size: at as u64,
                expires_at: at.is_multiple_of(3).then_some(-(at as i64)),
                is_tombstone: at.is_multiple_of(5),
                is_reference: at.is_multiple_of(7),
            })
            .collect()
    }

    fn names(count: usize) -> Vec<String> {
        let mut keys: Vec<String> = (0..count).map(|at| format!("k/{}/{at}", at % 13)).collect();
        keys.sort();
        keys
    }

    #[test]
    fn every_key_and_content_is_found_and_no_other() {
        for count in [0, 1, 2, 3, 1000] {
            let keys = names(count);
            let wanted = entries(&keys);
            let contents: Vec<_> =
                (0..count).map(|at| (Checksum::of(&[&at.to_le_bytes()]), at as u64 + 1)).collect();
            let sheet = Memory(build(&wanted, &contents));
            let index = Index::open(&sheet, sheet.0.len() as u64).unwrap();
            for (number, entry) in wanted.iter().enumerate() {
                assert_eq!(index.entry(&sheet, number as u64).unwrap(), *entry);
                assert_eq!(index.find(&sheet, entry.key, hash_of(entry.key)).unwrap(), Some(*entry));
                assert_eq!(index.seek(&sheet, entry.key, false).unwrap(), number as u64);
                assert_eq!(index.seek(&sheet, entry.key, true).unwrap(), number as u64 + 1);
                let other = format!("{}x", entry.key);
                assert_eq!(index.find(&sheet, &other, hash_of(&other)).unwrap(), None);
            }
            for (checksum, at) in &contents {
                assert_eq!(index.contents(&sheet, checksum).unwrap(), [*at]);
            }
            assert_eq!(index.contents(&sheet, &Checksum::of(&[b"other"])).unwrap(), [0; 0]);
            assert_eq!(index.seek(&sheet, "", false).unwrap(), 0);
            assert_eq!(index.seek(&sheet, "z", false).unwrap(), count as u64);
        }
    }

    #[test]
    fn damage_is_an_error_or_harmless_and_never_a_panic() {
        let keys = names(40);
        let contents: Vec<_> = (0..9_u64).map(|at| (Checksum::of(&[&at.to_le_bytes()]), at + 1)).collect();
        let good = build(&entries(&keys), &contents);
        let ask = |bytes: Vec<u8>| {
            let sheet = Memory(bytes);
            let Ok(index) = Index::open(&sheet, sheet.0.len() as u64) else { return };
            for key in keys.iter().map(String::as_str).chain(["", "none"]) {
                let _ = (index.find(&sheet, key, hash_of(key)), index.seek(&sheet, key, true));
            }
            for number in 0..index.count().min(100) {
                let _ = index.entry(&sheet, number);
            }
            for (checksum, _) in &contents {
                let _ = index.contents(&sheet, checksum);
            }
        };
        for at in 0..good.len() {
            for change in [1, 0x80, 0xFF] {
                let mut bad = good.clone();
                bad[at] ^= change;
                ask(bad);
            }
            ask(good[..at].to_vec());
        }
    }
}
