//! Memory for what is read.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// From so many bytes on large pages are worth their while.
const LARGE: usize = 4 << 20;

/// Zeros, until something else is written there.
#[derive(Debug)]
pub(crate) enum Buffer {
    Heap(Vec<u8>),
    Pages(MmapMut),
}

impl Buffer {
    /// So many zeros; `None`: there is no room for them.
    pub(crate) fn zeroed(len: u64) -> Option<Self> {
        let len = usize::try_from(len).ok()?;
        Vec::<u8>::new().try_reserve_exact(len).ok()?;
        Some(Self::Heap(vec![0; len]))
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
        Some(Self::Pages(pages))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Pages(pages) => pages,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Pages(pages) => pages,
        }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Heap(bytes)
    }
}

impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Self {
        match buffer {
            Buffer::Heap(bytes) => bytes.into(),
            Buffer::Pages(pages) => Self::from_owner(pages),
        }
    }
}

impl From<Buffer> for Vec<u8> {
    fn from(buffer: Buffer) -> Self {
        match buffer {
            Buffer::Heap(bytes) => bytes,
            Buffer::Pages(pages) => pages.to_vec(),
        }
    }
}
