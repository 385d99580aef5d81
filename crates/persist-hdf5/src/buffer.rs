//! Memory for what is read.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// From so many bytes on the kernel is asked for large pages: to be given a page of 4 KiB takes longer than to decode what goes there.
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
        if len < LARGE {
            return Some(Self::Small(vec![0; len]));
        }
        let pages = MmapMut::map_anon(len).ok()?;
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
