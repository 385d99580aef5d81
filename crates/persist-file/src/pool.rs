//! Buffers for large reads, used again: a fresh buffer of 1 MiB costs more in page faults than reading and hashing it.

use std::collections::TryReserveError;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers smaller than this come from the allocator, which is quick for them.
const SMALLEST: usize = 256 << 10;

/// The most that is kept for later, in bytes.
const KEPT: usize = 32 << 20;

/// Buffers waiting to be used again.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back to its pool when the last `Bytes` over it is dropped.
struct Lent {
    buffer: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer of at least `len` bytes, with anything in it.
    pub(crate) fn take(&self, len: usize) -> Result<Vec<u8>, TryReserveError> {
        let mut buffers = self.buffers.lock();
        // At most twice as large as asked for, so that a small value does not hold on to a large buffer.
        let fits = |buffer: &Vec<u8>| (len..=len.saturating_mul(2)).contains(&buffer.len());
        if let Some(at) = buffers.iter().rposition(fits) {
            return Ok(buffers.swap_remove(at));
        }
        drop(buffers);
        // Asked for first, because a length from a damaged disk must not abort the process.
        Vec::<u8>::new().try_reserve_exact(len)?;
        Ok(vec![0; len])
    }

    /// The first `len` bytes of a buffer, which comes back here in the end if it is large.
    pub(crate) fn lend(self: &Arc<Self>, mut buffer: Vec<u8>, len: usize) -> Bytes {
        if buffer.len() < SMALLEST {
            buffer.truncate(len);
            return buffer.into();
        }
        Bytes::from_owner(Lent { buffer, len, pool: Arc::clone(self) })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut buffers = self.pool.buffers.lock();
        if buffers.iter().map(Vec::len).sum::<usize>() + buffer.len() <= KEPT {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_come_back_and_small_ones_do_not() {
        let pool = Arc::new(Pool::default());
        let mut buffer = pool.take(1 << 20).unwrap();
        buffer[..100].fill(7);
        let address = buffer.as_ptr().addr();
        let bytes = pool.lend(buffer, 100);
        assert_eq!(&bytes[..], [7; 100]);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert!(pool.buffers.lock().is_empty());
        drop(part);
        let again = pool.take(600 << 10).unwrap();
        assert_eq!((again.as_ptr().addr(), again.len()), (address, 1 << 20));
        drop(pool.lend(vec![1, 2, 3], 2));
        assert!(pool.buffers.lock().is_empty());
        assert!(pool.take(usize::MAX).is_err());
    }
}
