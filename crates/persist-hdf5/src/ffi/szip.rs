//! szip, which nobody but the library codes: it does so for a file in memory that has one dataset of one chunk.

use hdf5_sys::h5d::{H5Dcreate_anon, H5Dwrite};
use hdf5_sys::h5f::{H5F_ACC_TRUNC, H5Fcreate};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5p::{H5P_CLS_FILE_ACCESS, H5P_DEFAULT, H5Pcreate, H5Pset_fapl_core};
use hdf5_sys::h5s::H5S_ALL;
use hdf5_sys::h5t::{H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE};
use hdf5_sys::h5z::{H5Z_FILTER_CONFIG_ENCODE_ENABLED, H5Z_FILTER_SZIP, H5Zfilter_avail, H5Zget_filter_info};

use super::chunks;
use super::dataset::Dataset;
use super::library::{H5Error, Id, begin, check, lock};
use super::types;
use crate::codec::{Coded, Filter};

/// What szip has to know of a chunk, since it looks at elements and rows of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Szip {
    /// Bytes of an element.
    pub(crate) element: usize,
    /// Elements along the last axis.
    pub(crate) row: usize,
}

impl Szip {
    /// How many elements it looks at together; the number of h5py.
    pub(crate) const BLOCK: usize = 8;

    /// True if the library of this program can write it.
    pub(crate) fn is_there() -> bool {
        let _lock = lock();
        begin();
        let mut flags = 0;
        // SAFETY: the lock is held, and there is room for the flags.
        let known = unsafe {
            H5Zfilter_avail(H5Z_FILTER_SZIP) > 0 && H5Zget_filter_info(H5Z_FILTER_SZIP, &raw mut flags) >= 0
        };
        known && flags & H5Z_FILTER_CONFIG_ENCODE_ENABLED != 0
    }

    /// `None`: it gains nothing, or elements of that kind are not for it.
    pub(crate) fn encode(self, chunk: &[u8]) -> Option<Vec<u8>> {
        let _lock = lock();
        let (_file, dataset, kind) = self.scratch(chunk.len()).ok()??;
        let data = chunk.as_ptr().cast();
        // SAFETY: the lock is held, and the dataset has as many bytes as the chunk.
        check(unsafe { H5Dwrite(dataset.id(), kind, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) }).ok()?;
        let coded = dataset.read_chunk(&[0, 0], chunk.len()).ok()??;
        (coded.skipped == 0 && coded.bytes.len() < chunk.len()).then_some(coded.bytes)
    }

    /// How many bytes there were; `None`: they are damaged.
    pub(crate) fn decode(self, coded: &[u8], into: &mut [u8]) -> Option<usize> {
        let _lock = lock();
        let (_file, dataset, _) = self.scratch(into.len()).ok()??;
        dataset.write_chunk(&[0, 0], &Coded { bytes: coded.to_vec(), skipped: 0 }).ok()?;
        dataset.read_plain(into).ok()?;
        Some(into.len())
    }

    /// A file in memory, a dataset in it that has a chunk of so many bytes, and the type of its elements. The caller holds the lock.
    fn scratch(self, len: usize) -> Result<Option<(Id, Dataset, hid_t)>, H5Error> {
        let kind = match self.element {
            1 => *H5T_STD_U8LE,
            2 => *H5T_STD_U16LE,
            4 => *H5T_STD_U32LE,
            8 => *H5T_STD_U64LE,
            _ => return Ok(None),
        };
        let rows = len / (self.element * self.row).max(1);
        if rows * self.row * self.element != len {
            return Ok(None);
        }
        begin();
        let shape = [rows, self.row];
        let (space, properties) =
            (types::space(&shape)?, chunks::properties(&shape, &[Filter::Szip(self)], len)?);
        // SAFETY: the caller holds the lock; a file in memory has no place on the disk.
        unsafe {
            let access = Id::new(H5Pcreate(*H5P_CLS_FILE_ACCESS))?;
            check(H5Pset_fapl_core(access.get(), 1 << 16, 0))?;
            let name = c"persist-szip".as_ptr();
            let file = Id::new(H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, access.get()))?;
            let made = H5Dcreate_anon(file.get(), kind, space.get(), properties.get(), H5P_DEFAULT);
            let dataset = Dataset::new(Id::new(made)?);
            Ok(Some((file, dataset, kind)))
        }
    }
}
