use persist_core::Key;

/// How many slots a cluster has.
const SLOTS: u16 = 16_384;

/// The names of everything that a storage keeps in Redis, and which of its tags a key belongs to.
///
/// `NAMESPACE:{TAG}/KEY` is an entry, `NAMESPACE:{TAG}#index`, `#expiry` and `#head` belong to the tag. All names of
/// one tag lie on one slot of a cluster, because the tag is the first part in braces.
#[derive(Clone, Debug)]
pub(crate) struct Keyspace {
    namespace: String,
    tags: u16,
}

/// One of the tags that the keys of a storage are spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tag(pub(crate) u16);

impl Keyspace {
    pub(crate) fn new(namespace: impl Into<String>, tags: u16) -> Self {
        Self { namespace: namespace.into(), tags }
    }

    pub(crate) fn count(&self) -> u16 {
        self.tags
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = Tag> + use<> {
        (0..self.tags).map(Tag)
    }

    /// The tag of a key: keys with the same part in braces have the same tag, as they would have the same slot.
    pub(crate) fn tag(&self, key: &Key) -> Tag {
        // Outside clusters there is one, and nothing to compute.
        Tag(if self.tags == 1 { 0 } else { crc16(key.hash_tag().as_bytes()) % self.tags })
    }

    /// The slot of a cluster on which a tag lies.
    pub(crate) fn slot(tag: Tag) -> u16 {
        crc16(tag.0.to_string().as_bytes()) % SLOTS
    }

    pub(crate) fn entry(&self, tag: Tag, key: &Key) -> String {
        format!("{}:{{{}}}/{key}", self.namespace, tag.0)
    }

    pub(crate) fn index(&self, tag: Tag) -> String {
        self.own(tag, "index")
    }

    pub(crate) fn expiry(&self, tag: Tag) -> String {
        self.own(tag, "expiry")
    }

    pub(crate) fn head(&self, tag: Tag) -> String {
        self.own(tag, "head")
    }

    /// The channel on which the changes of a tag are told.
    pub(crate) fn events(&self, tag: Tag) -> String {
        self.own(tag, "events")
    }

    fn own(&self, tag: Tag, what: &str) -> String {
        format!("{}:{{{}}}#{what}", self.namespace, tag.0)
    }
}

/// CRC-16/XMODEM, as the Redis cluster specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // CLUSTER KEYSLOT says so.
        assert_eq!(Keyspace::slot(Tag(0)), 13_907);
        assert_eq!(crc16(b"foo") % SLOTS, 12_182);
    }

    #[test]
    fn keys_with_the_same_braces_share_a_tag() {
        let keyspace = Keyspace::new("app", 64);
        let tag = |text: &str| keyspace.tag(&Key::new(text).unwrap());
        assert_eq!(tag("{ada}/name"), tag("x/{ada}/born"));
        assert_eq!(tag("{ada}/name"), tag("ada"));
        let key = Key::new("a{b}c").unwrap();
        assert_eq!(keyspace.entry(Tag(7), &key), "app:{7}/a{b}c");
        assert_eq!(keyspace.index(Tag(7)), "app:{7}#index");
    }

    #[test]
    fn tags_spread_over_the_slots() {
        let third = |tag| Keyspace::slot(tag) / (SLOTS / 3 + 1);
        for part in 0..3 {
            let count = Keyspace::new("a", 64).tags().filter(|tag| third(*tag) == part).count();
            assert!((10..=32).contains(&count), "{count} of 64 tags lie on third {part}");
        }
    }
}
