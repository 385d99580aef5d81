//! Datasets in chunks: made, and their chunks written and read as they stand in the file, without the library's filters.

use std::ffi::{CStr, c_int, c_uint, c_void};

use hdf5_sys::h5::{H5allocate_memory, H5free_memory, hsize_t};
use hdf5_sys::h5d::{
    H5D_fill_time_t, H5Dget_create_plist, H5Dget_type, H5Dread_chunk1, H5Dset_extent, H5Dwrite_chunk,
};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5p::{
    H5P_CLS_DATASET_CREATE, H5P_DEFAULT, H5Pcreate, H5Pget_chunk, H5Pget_filter2, H5Pget_nfilters,
    H5Pset_chunk, H5Pset_deflate, H5Pset_fill_time, H5Pset_filter, H5Pset_fletcher32, H5Pset_shuffle,
    H5Pset_szip,
};
use hdf5_sys::h5t::H5Tget_size;
use hdf5_sys::h5z::{
    H5_SZIP_NN_OPTION_MASK, H5Z_CLASS_T_VERS, H5Z_FILTER_DEFLATE, H5Z_FILTER_FLETCHER32, H5Z_FILTER_SHUFFLE,
    H5Z_FILTER_SZIP, H5Z_FLAG_OPTIONAL, H5Z_FLAG_REVERSE, H5Z_class2_t, H5Zfilter_avail, H5Zregister,
};
use persist_core::MAX_RANK;

use super::dataset::Dataset;
use super::library::{H5Error, Id, check, lock};
use super::szip::Szip;
use crate::buffer::Buffer;
use crate::codec::{self, Coded, Filter, Pipeline};
use crate::decoder::Decoder;
use crate::lzf;

/// The number of LZF among the filters of HDF5, and what h5py tells it: its own version and that of the format.
const LZF: i32 = 32000;
const LZF_VERSIONS: [c_uint; 2] = [4, 0x105];

/// The number of zstd among the filters of HDF5; it is told its level.
const ZSTD: i32 = 32015;

/// The longest chunk that the library itself is given by zstd, which does not know how long it is to be.
const LONGEST: usize = u32::MAX as usize;

/// The most that a filter is told.
const VALUES: usize = 8;

unsafe extern "C" {
    /// How many bytes a chunk takes in the file, 0 if there is none; not among the bindings.
    fn H5Dget_chunk_storage_size(dataset: hid_t, offset: *const hsize_t, size: *mut hsize_t) -> c_int;
}

/// The properties of a dataset in chunks. The caller holds the lock.
pub(super) fn properties(chunk: &[usize], pipeline: &[Filter], chunk_bytes: usize) -> Result<Id, H5Error> {
    let dims: Vec<hsize_t> = chunk.iter().map(|len| *len as hsize_t).collect();
    let rank = i32::try_from(dims.len()).unwrap_or(i32::MAX);
    // SAFETY: the caller holds the lock, and there are as many numbers as axes.
    unsafe {
        let list = Id::new(H5Pcreate(*H5P_CLS_DATASET_CREATE))?;
        check(H5Pset_chunk(list.get(), rank, dims.as_ptr()))?;
        check(H5Pset_fill_time(list.get(), H5D_fill_time_t::H5D_FILL_TIME_NEVER))?;
        for filter in pipeline {
            check(match filter {
                Filter::Shuffle(_) => H5Pset_shuffle(list.get()),
                Filter::Gzip(level) => H5Pset_deflate(list.get(), (*level).into()),
                Filter::Szip(_) => H5Pset_szip(list.get(), H5_SZIP_NN_OPTION_MASK, Szip::BLOCK as c_uint),
                Filter::Fletcher32 => H5Pset_fletcher32(list.get()),
                Filter::Lzf => {
                    let len = c_uint::try_from(chunk_bytes).unwrap_or(c_uint::MAX);
                    let values = [LZF_VERSIONS[0], LZF_VERSIONS[1], len];
                    H5Pset_filter(list.get(), LZF, H5Z_FLAG_OPTIONAL, values.len(), values.as_ptr())
                }
                Filter::Zstd(level) => {
                    let level = c_uint::from(*level);
                    H5Pset_filter(list.get(), ZSTD, H5Z_FLAG_OPTIONAL, 1, &raw const level)
                }
            })?;
        }
        Ok(list)
    }
}

impl Dataset {
    /// The shape of its chunks, and its filters if all of them are known here.
    ///
    /// # Errors
    /// What the library says; also if it is not in chunks.
    pub(crate) fn chunking(&self) -> Result<(Vec<usize>, Option<Pipeline>), H5Error> {
        let _lock = lock();
        let mut dims: [hsize_t; MAX_RANK] = [0; MAX_RANK];
        // SAFETY: the lock is held; there is room for as many axes as an array has.
        unsafe {
            let list = Id::new(H5Dget_create_plist(self.id()))?;
            let rank = check(H5Pget_chunk(list.get(), MAX_RANK as i32, dims.as_mut_ptr()))?;
            let dims = &dims[..usize::try_from(rank).unwrap_or(0).min(MAX_RANK)];
            let chunk: Vec<_> = dims.iter().map(|len| usize::try_from(*len).unwrap_or(usize::MAX)).collect();
            let kind = Id::new(H5Dget_type(self.id()))?;
            let szip = Szip { element: H5Tget_size(kind.get()), row: chunk.last().copied().unwrap_or(1) };
            let count = check(H5Pget_nfilters(list.get()))?;
            let filters = (0..count).map(|at| filter(&list, c_uint::try_from(at).unwrap_or(0), szip));
            Ok((chunk, filters.collect::<Result<Vec<_>, _>>()?.into_iter().collect()))
        }
    }

    /// A filter of its chunks that the library does not have, by name and number; `None`: it has all.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn missing_filter(&self) -> Result<Option<String>, H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held.
        unsafe {
            let list = Id::new(H5Dget_create_plist(self.id()))?;
            for at in 0..c_uint::try_from(check(H5Pget_nfilters(list.get()))?).unwrap_or(0) {
                let id = filter_id(&list, at)?;
                if check(H5Zfilter_avail(id))? == 0 {
                    return Ok(Some(format!("{} ({id})", name_of(id))));
                }
            }
        }
        Ok(None)
    }

    /// Reads a chunk as it stands in the file; `None`: there is none.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn read_chunk(&self, at: &[usize], limit: usize) -> Result<Option<Coded>, H5Error> {
        let _lock = lock();
        let at: Vec<hsize_t> = at.iter().map(|place| *place as hsize_t).collect();
        let (mut size, mut skipped) = (0, 0);
        // SAFETY: the lock is held; there are as many numbers as axes, and the buffer is as long as the library says that
        // the chunk is.
        unsafe {
            check(H5Dget_chunk_storage_size(self.id(), at.as_ptr(), &raw mut size))?;
            if size == 0 {
                return Ok(None);
            }
            let len = usize::try_from(size).ok().filter(|len| *len <= limit);
            let len = len.ok_or_else(|| H5Error::new("a chunk is longer than it can be"))?;
            let mut bytes = vec![0_u8; len];
            let data = bytes.as_mut_ptr().cast::<c_void>();
            check(H5Dread_chunk1(self.id(), H5P_DEFAULT, at.as_ptr(), &raw mut skipped, data))?;
            Ok(Some(Coded { bytes, skipped }))
        }
    }

    /// Writes a chunk as it is to stand in the file.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn write_chunk(&self, at: &[usize], coded: &Coded) -> Result<(), H5Error> {
        let _lock = lock();
        let at: Vec<hsize_t> = at.iter().map(|place| *place as hsize_t).collect();
        let (data, len) = (coded.bytes.as_ptr().cast::<c_void>(), coded.bytes.len());
        // SAFETY: the lock is held; there are as many numbers as axes, and the buffer has that length.
        check(unsafe { H5Dwrite_chunk(self.id(), H5P_DEFAULT, coded.skipped, at.as_ptr(), len, data) })
            .map(drop)
    }

    /// Gives it another shape; the number of axes stays.
    ///
    /// # Errors
    /// What the library says; also if the axes cannot grow.
    pub(crate) fn resize(&self, shape: &[usize]) -> Result<(), H5Error> {
        let _lock = lock();
        if self.shape()?.is_none_or(|now| now.len() != shape.len()) {
            return Err(H5Error::new("the number of axes cannot change"));
        }
        let dims: Vec<hsize_t> = shape.iter().map(|len| *len as hsize_t).collect();
        // SAFETY: the lock is held, and there are as many numbers as axes.
        check(unsafe { H5Dset_extent(self.id(), dims.as_ptr()) }).map(drop)
    }
}

/// The number of a filter of a list.
fn filter_id(list: &Id, at: c_uint) -> Result<i32, H5Error> {
    let (mut flags, mut config, mut count) = (0, 0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: the caller holds the lock; there is room for no values and no name.
    check(unsafe {
        H5Pget_filter2(list.get(), at, &raw mut flags, &raw mut count, none, 0, none.cast(), &raw mut config)
    })
}

/// What a registered filter is called. Source: the list of registered filter plugins of the HDF Group.
fn name_of(id: i32) -> &'static str {
    match id {
        H5Z_FILTER_SZIP => "szip",
        5 => "nbit",
        6 => "scale-offset",
        307 => "bzip2",
        LZF => "lzf",
        32001 => "blosc",
        32004 => "lz4",
        32008 => "bitshuffle",
        32013 => "zfp",
        ZSTD => "zstd",
        32026 => "blosc2",
        _ => "of somebody else",
    }
}

/// A filter of a list, if it is known here.
fn filter(list: &Id, at: c_uint, szip: Szip) -> Result<Option<Filter>, H5Error> {
    let (mut flags, mut config, mut count) = (0, 0, VALUES);
    let mut values = [0; VALUES];
    // SAFETY: the caller holds the lock; there is room for as many values as is said, and none for the name.
    let id = check(unsafe {
        let (values, name) = (values.as_mut_ptr(), std::ptr::null_mut());
        H5Pget_filter2(list.get(), at, &raw mut flags, &raw mut count, values, 0, name, &raw mut config)
    })?;
    Ok(match id {
        H5Z_FILTER_SHUFFLE => Some(Filter::Shuffle(values[0] as usize)),
        H5Z_FILTER_DEFLATE => Some(Filter::Gzip(u8::try_from(values[0]).unwrap_or(9))),
        H5Z_FILTER_FLETCHER32 => Some(Filter::Fletcher32),
        H5Z_FILTER_SZIP => Some(Filter::Szip(szip)),
        LZF => Some(Filter::Lzf),
        ZSTD if cfg!(feature = "zstd") => {
            Some(Filter::Zstd(u8::try_from(values[0]).unwrap_or(19).clamp(1, 19)))
        }
        _ => None,
    })
}

/// Lets the library itself read and write LZF and zstd, as it must for the files of others. The caller holds the lock.
pub(super) fn register() {
    register_one(LZF, c"lzf", lzf_filter);
    if cfg!(feature = "zstd") {
        register_one(ZSTD, c"zstd", zstd_filter);
    }
}

/// What the library calls: flags, what the filter is told, the length of the data, the room and the place of the buffer.
type Call = unsafe extern "C" fn(c_uint, usize, *const c_uint, usize, *mut usize, *mut *mut c_void) -> usize;

fn register_one(id: i32, name: &'static CStr, filter: Call) {
    let class = Box::leak(Box::new(H5Z_class2_t {
        version: H5Z_CLASS_T_VERS as i32,
        id,
        encoder_present: 1,
        decoder_present: 1,
        name: name.as_ptr(),
        can_apply: None,
        set_local: None,
        filter: Some(filter),
    }));
    // SAFETY: the lock is held, and the class lives as long as the process. If it fails, reading such a file says so.
    unsafe { H5Zregister((&raw const *class).cast()) };
}

unsafe extern "C" fn lzf_filter(
    flags: c_uint,
    count: usize,
    values: *const c_uint,
    len: usize,
    room: *mut usize,
    buffer: *mut *mut c_void,
) -> usize {
    // SAFETY: the library passes as many values as it says; the rest is as `replace` needs it.
    unsafe {
        let told = if count > 2 && !values.is_null() { Some(*values.add(2) as usize) } else { None };
        replace(len, room, buffer, |input| match flags & H5Z_FLAG_REVERSE != 0 {
            // Two bytes become 264 at most, so a length that is made up takes no memory.
            true => decoded(
                Filter::Lzf,
                input,
                told.filter(|len| *len <= input.len().saturating_mul(lzf::LONGEST))?,
            ),
            false => lzf::compress(input).map(Buffer::from),
        })
    }
}

unsafe extern "C" fn zstd_filter(
    flags: c_uint,
    count: usize,
    values: *const c_uint,
    len: usize,
    room: *mut usize,
    buffer: *mut *mut c_void,
) -> usize {
    // SAFETY: as above.
    unsafe {
        let level = if count > 0 && !values.is_null() { *values } else { 3 };
        replace(len, room, buffer, |input| match flags & H5Z_FLAG_REVERSE != 0 {
            true => decoded(Filter::Zstd(0), input, codec::zstd_length(input).filter(|len| *len <= LONGEST)?),
            false => codec::zstd(input, u8::try_from(level).unwrap_or(19)).map(Buffer::from),
        })
    }
}

/// Undoes a filter.
fn decoded(filter: Filter, input: &[u8], len: usize) -> Option<Buffer> {
    let mut output = Buffer::zeroed(len as u64)?;
    (Decoder::default().undo(filter, input, &mut output)? == len).then_some(output)
}

/// Puts what `code` makes of a chunk in its place; 0: it makes nothing of it.
///
/// # Safety
/// The library's buffer holds `len` bytes; what takes its place is allocated by the library as well.
unsafe fn replace(
    len: usize,
    room: *mut usize,
    buffer: *mut *mut c_void,
    code: impl FnOnce(&[u8]) -> Option<Buffer>,
) -> usize {
    // SAFETY: the caller makes sure of it.
    unsafe {
        let input = std::slice::from_raw_parts((*buffer).cast::<u8>(), len);
        let Some(output) = code(input) else { return 0 };
        let place = H5allocate_memory(output.len().max(1), 0);
        if place.is_null() {
            return 0;
        }
        std::ptr::copy_nonoverlapping(output.as_ptr(), place.cast::<u8>(), output.len());
        H5free_memory(*buffer);
        (*buffer, *room) = (place, output.len());
        output.len()
    }
}
