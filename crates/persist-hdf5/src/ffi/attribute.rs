//! Attributes: the record of persist, and copies of everybody's.

use std::ffi::{CStr, CString, c_char, c_void};

use hdf5_sys::h5::{H5_index_t, H5_iter_order_t};
use hdf5_sys::h5a::{
    H5A_info_t, H5Acreate2, H5Adelete, H5Aexists, H5Aget_space, H5Aget_type, H5Aiterate2, H5Aopen, H5Aread,
    H5Awrite,
};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5p::H5P_DEFAULT;
use hdf5_sys::h5s::{H5S_class_t, H5Screate, H5Sget_simple_extent_npoints};
use hdf5_sys::h5t::{H5T_class_t, H5Tget_class, H5Tget_size, H5Tis_variable_str};

use super::library::{H5Error, Id, check, lock};
use super::types;

/// The name of the attribute in which persist keeps what it knows of a value.
const RECORD: &CStr = c"persist";

/// The longest text that an attribute takes: it lies in the header of its object, which has at most 64 KiB.
const LONGEST_RECORD: usize = 60_000;

/// Reads the record of an object.
pub(super) fn record(object: hid_t) -> Result<Option<Vec<u8>>, H5Error> {
    let _lock = lock();
    // SAFETY: the lock is held; the buffer is as long as the attribute's type says.
    unsafe {
        if check(H5Aexists(object, RECORD.as_ptr()))? == 0 {
            return Ok(None);
        }
        let attribute = Id::new(H5Aopen(object, RECORD.as_ptr(), H5P_DEFAULT))?;
        let stored = Id::new(H5Aget_type(attribute.get()))?;
        let len = H5Tget_size(stored.get());
        let scalar = types::shape(&Id::new(H5Aget_space(attribute.get()))?)? == Some(Vec::new());
        let text = H5Tget_class(stored.get()) == H5T_class_t::H5T_STRING
            && check(H5Tis_variable_str(stored.get()))? == 0;
        if !scalar || !text || len > LONGEST_RECORD {
            return Err(H5Error::new("the attribute `persist` is no text of a fixed length"));
        }
        let mut buffer = vec![0; len];
        check(H5Aread(attribute.get(), stored.get(), buffer.as_mut_ptr().cast::<c_void>()))?;
        Ok(Some(buffer))
    }
}

/// Writes the record of an object in place of the one it has.
pub(super) fn set_record(object: hid_t, text: &str) -> Result<(), H5Error> {
    if text.len() > LONGEST_RECORD {
        return Err(H5Error::new("the metadata are too long for an attribute"));
    }
    let _lock = lock();
    // SAFETY: the lock is held; the type is as long as the text.
    unsafe {
        if check(H5Aexists(object, RECORD.as_ptr()))? > 0 {
            check(H5Adelete(object, RECORD.as_ptr()))?;
        }
        let stored = types::text(text.len())?;
        let scalar = Id::new(H5Screate(H5S_class_t::H5S_SCALAR))?;
        let made = H5Acreate2(object, RECORD.as_ptr(), stored.get(), scalar.get(), H5P_DEFAULT, H5P_DEFAULT);
        let attribute = Id::new(made)?;
        check(H5Awrite(attribute.get(), stored.get(), text.as_ptr().cast::<c_void>())).map(drop)
    }
}

/// Copies all attributes of an object to another one. The caller holds the lock.
pub(super) fn copy_all(from: hid_t, to: hid_t) -> Result<(), H5Error> {
    let mut names: Vec<CString> = Vec::new();
    let found = (&raw mut names).cast::<c_void>();
    let mut at = 0;
    // SAFETY: the lock is held, and the callback gets what is passed here.
    check(unsafe {
        H5Aiterate2(
            from,
            H5_index_t::H5_INDEX_NAME,
            H5_iter_order_t::H5_ITER_NATIVE,
            &raw mut at,
            Some(note),
            found,
        )
    })?;
    names.iter().try_for_each(|name| copy(from, to, name))
}

unsafe extern "C" fn note(_: hid_t, name: *const c_char, _: *const H5A_info_t, names: *mut c_void) -> i32 {
    // SAFETY: the library passes a name, and what was given to `H5Aiterate2`.
    unsafe { (*names.cast::<Vec<CString>>()).push(CStr::from_ptr(name).to_owned()) };
    0
}

fn copy(from: hid_t, to: hid_t, name: &CStr) -> Result<(), H5Error> {
    // SAFETY: the caller holds the lock; the buffer is as long as all elements of the type, and is zero where the library
    // writes nothing. What the library allocates for texts of any length it takes back.
    unsafe {
        let source = Id::new(H5Aopen(from, name.as_ptr(), H5P_DEFAULT))?;
        let (kind, space) = (Id::new(H5Aget_type(source.get()))?, Id::new(H5Aget_space(source.get()))?);
        let count = check(H5Sget_simple_extent_npoints(space.get()))?;
        let mut buffer = vec![0_u8; usize::try_from(count).unwrap_or(0) * H5Tget_size(kind.get())];
        let data = buffer.as_mut_ptr().cast::<c_void>();
        let made = H5Acreate2(to, name.as_ptr(), kind.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT);
        let target = Id::new(made)?;
        if buffer.is_empty() {
            return Ok(());
        }
        check(H5Aread(source.get(), kind.get(), data))?;
        let written = check(H5Awrite(target.get(), kind.get(), data)).map(drop);
        #[allow(deprecated, reason = "HDF5 1.10 has nothing else")]
        hdf5_sys::h5d::H5Dvlen_reclaim(kind.get(), space.get(), H5P_DEFAULT, data);
        written
    }
}
