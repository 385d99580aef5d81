//! Memory for what is read.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// From so many bytes on large pages are worth their while.
const LARGE: usize = 4 << 20;

/// Zeros, until something else is written there.
#[derive(Debug)]
pub(crate) enum Buffer {
    Small(Vec<u8>),
    Large(MmapMut),
}

impl Buffer {
    /// So many zeros; `None`: there is no room for them.
    pub(crate) fn zeroed(len: u64) -> Option<Self> {
        let len = usize::try_from(len).ok()?;
        Vec::<u8>::new().try_reserve_exact(len).ok()?;
        Some(Self::Small(vec![0; len]))
    }

    /// The same in large pages, for what is decoded: to be given pages of 4 KiB takes about as long as to decode what goes there. What is only
    /// copied from the file is quicker in ordinary ones, which are still in the cache when they are written.
    pub(crate) fn in_large_pages(len: u64) -> Option<Self> {
        let count = usize::try_from(len).ok()?;
        if count < LARGE {
            return Self::zeroed(len);
        }
        let pages = MmapMut::map_anon(count).ok()?;
        // Where there are no large pages small ones will do.
        let _ = pages.advise(Advice::HugePage);
        Some(Self::Large(pages))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(pages) => pages,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(pages) => pages,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Small(bytes)
    }
}

impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Self {
        match buffer {
            Buffer::Small(bytes) => bytes.into(),
            Buffer::Large(_) => Self::from_owner(buffer),
        }
    }
}
