//! Types and shapes of the library, and what they are in persist.

use std::ffi::{CStr, CString, c_void};

use hdf5_sys::h5::{H5free_memory, hsize_t};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5s::{
    H5S_UNLIMITED, H5S_class_t, H5Screate, H5Screate_simple, H5Sget_simple_extent_dims,
    H5Sget_simple_extent_type,
};
use hdf5_sys::h5t::{
    H5T_C_S1, H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_STD_I8LE, H5T_STD_I16LE, H5T_STD_I32LE, H5T_STD_I64LE,
    H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE, H5T_class_t, H5T_cset_t, H5T_sign_t,
    H5T_str_t, H5Tcopy, H5Tcreate, H5Tenum_create, H5Tenum_insert, H5Tget_class, H5Tget_member_index,
    H5Tget_member_name, H5Tget_member_type, H5Tget_nmembers, H5Tget_sign, H5Tget_size, H5Tget_super,
    H5Tinsert, H5Tis_variable_str, H5Tset_cset, H5Tset_size, H5Tset_strpad,
};
use persist_core::{DType, MAX_RANK};

use super::library::{H5Error, Id, check};

/// What the elements of a dataset are, as persist reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    /// Numbers, converted to this dtype by the library where the file has them in another order or width.
    Numbers(DType),
    /// Strings of this many bytes, filled up with NUL or blanks.
    Strings(usize),
    /// Strings of any length.
    Texts,
    /// Something else.
    Others,
}

/// The type with which persist stores a dtype: little-endian; bool and complex as h5py has them. The caller holds the lock.
pub(super) fn stored(dtype: DType) -> Result<Id, H5Error> {
    // SAFETY (here and below): the caller holds the lock, and the library was begun.
    match plain(dtype) {
        Some(id) => Id::new(unsafe { H5Tcopy(id) }),
        None if dtype == DType::Bool => boolean(),
        None => complex(if dtype == DType::Complex64 { DType::F32 } else { DType::F64 }),
    }
}

fn plain(dtype: DType) -> Option<hid_t> {
    Some(match dtype {
        DType::I8 => *H5T_STD_I8LE,
        DType::I16 => *H5T_STD_I16LE,
        DType::I32 => *H5T_STD_I32LE,
        DType::I64 => *H5T_STD_I64LE,
        DType::U8 => *H5T_STD_U8LE,
        DType::U16 => *H5T_STD_U16LE,
        DType::U32 => *H5T_STD_U32LE,
        DType::U64 => *H5T_STD_U64LE,
        DType::F32 => *H5T_IEEE_F32LE,
        DType::F64 => *H5T_IEEE_F64LE,
        DType::Bool | DType::Complex64 | DType::Complex128 => return None,
    })
}

fn boolean() -> Result<Id, H5Error> {
    // SAFETY: the lock is held; the values are one byte long, as the type is.
    unsafe {
        let id = Id::new(H5Tenum_create(*H5T_STD_I8LE))?;
        for (name, value) in [(c"FALSE", 0_i8), (c"TRUE", 1)] {
            check(H5Tenum_insert(id.get(), name.as_ptr(), (&raw const value).cast::<c_void>()))?;
        }
        Ok(id)
    }
}

fn complex(part: DType) -> Result<Id, H5Error> {
    let Some(number) = plain(part) else {
        return Err(H5Error::new("a part of a complex number is a number"));
    };
    // SAFETY: the lock is held; both parts lie within the type.
    unsafe {
        let id = Id::new(H5Tcreate(H5T_class_t::H5T_COMPOUND, 2 * part.size()))?;
        check(H5Tinsert(id.get(), c"r".as_ptr(), 0, number))?;
        check(H5Tinsert(id.get(), c"i".as_ptr(), part.size(), number))?;
        Ok(id)
    }
}

/// The type of UTF-8 text of a fixed length, filled up with NUL. The caller holds the lock.
pub(super) fn text(len: usize) -> Result<Id, H5Error> {
    // SAFETY: the caller holds the lock.
    unsafe {
        let id = Id::new(H5Tcopy(*H5T_C_S1))?;
        check(H5Tset_size(id.get(), len.max(1)))?;
        check(H5Tset_strpad(id.get(), H5T_str_t::H5T_STR_NULLPAD))?;
        check(H5Tset_cset(id.get(), H5T_cset_t::H5T_CSET_UTF8))?;
        Ok(id)
    }
}

/// The type of UTF-8 text of any length. The caller holds the lock.
pub(super) fn any_text(like: hid_t) -> Result<Id, H5Error> {
    // SAFETY: the caller holds the lock. A copy of the file's own type, so that nothing is converted.
    Id::new(unsafe { H5Tcopy(like) })
}

/// What persist reads elements of a type as. The caller holds the lock.
pub(super) fn elements(id: hid_t) -> Result<Elements, H5Error> {
    // SAFETY: the caller holds the lock.
    let class = unsafe { H5Tget_class(id) };
    Ok(match class {
        H5T_class_t::H5T_INTEGER => integer(id).map_or(Elements::Others, Elements::Numbers),
        H5T_class_t::H5T_FLOAT => float(id).map_or(Elements::Others, Elements::Numbers),
        H5T_class_t::H5T_ENUM if is_boolean(id)? => Elements::Numbers(DType::Bool),
        H5T_class_t::H5T_COMPOUND => complex_of(id)?.map_or(Elements::Others, Elements::Numbers),
        H5T_class_t::H5T_STRING => strings(id)?,
        _ => Elements::Others,
    })
}

fn size(id: hid_t) -> usize {
    // SAFETY: the lock is held.
    unsafe { H5Tget_size(id) }
}

fn integer(id: hid_t) -> Option<DType> {
    // SAFETY: the lock is held.
    let signed = unsafe { H5Tget_sign(id) } == H5T_sign_t::H5T_SGN_2;
    Some(match (size(id), signed) {
        (1, true) => DType::I8,
        (2, true) => DType::I16,
        (3..=4, true) => DType::I32,
        (5..=8, true) => DType::I64,
        (1, false) => DType::U8,
        (2, false) => DType::U16,
        (3..=4, false) => DType::U32,
        (5..=8, false) => DType::U64,
        _ => return None,
    })
}

fn float(id: hid_t) -> Option<DType> {
    match size(id) {
        2..=4 => Some(DType::F32),
        5..=8 => Some(DType::F64),
        _ => None,
    }
}

fn is_boolean(id: hid_t) -> Result<bool, H5Error> {
    // SAFETY: the lock is held, and what the library allocates is given back to it.
    unsafe {
        if check(H5Tget_nmembers(id))? != 2 || size(H5Tget_super_of(id)?.get()) != 1 {
            return Ok(false);
        }
        let name = |member| {
            let name = H5Tget_member_name(id, member);
            let text = (!name.is_null()).then(|| CStr::from_ptr(name).to_owned());
            H5free_memory(name.cast());
            text
        };
        Ok(name(0).as_deref() == Some(c"FALSE") && name(1).as_deref() == Some(c"TRUE"))
    }
}

#[allow(non_snake_case, reason = "named after the call it wraps")]
fn H5Tget_super_of(id: hid_t) -> Result<Id, H5Error> {
    // SAFETY: the lock is held.
    Id::new(unsafe { H5Tget_super(id) })
}

fn complex_of(id: hid_t) -> Result<Option<DType>, H5Error> {
    // SAFETY: the lock is held.
    unsafe {
        if check(H5Tget_nmembers(id))? != 2 {
            return Ok(None);
        }
        let part = |name: &CStr| {
            let member = u32::try_from(H5Tget_member_index(id, name.as_ptr())).ok()?;
            let part = Id::new(H5Tget_member_type(id, member)).ok()?;
            (H5Tget_class(part.get()) == H5T_class_t::H5T_FLOAT).then(|| float(part.get())).flatten()
        };
        Ok(match (part(c"r"), part(c"i")) {
            (Some(DType::F32), Some(DType::F32)) => Some(DType::Complex64),
            (Some(_), Some(_)) => Some(DType::Complex128),
            _ => None,
        })
    }
}

fn strings(id: hid_t) -> Result<Elements, H5Error> {
    // SAFETY: the lock is held.
    let any = check(unsafe { H5Tis_variable_str(id) })? > 0;
    Ok(if any { Elements::Texts } else { Elements::Strings(size(id)) })
}

/// A space of a shape. The caller holds the lock.
pub(super) fn space(shape: &[usize]) -> Result<Id, H5Error> {
    let dims: Vec<hsize_t> = shape.iter().map(|dim| *dim as hsize_t).collect();
    let rank = i32::try_from(dims.len()).unwrap_or(i32::MAX);
    // SAFETY: the caller holds the lock, and `dims` has that many numbers.
    Id::new(unsafe {
        match dims.is_empty() {
            true => H5Screate(H5S_class_t::H5S_SCALAR),
            false => H5Screate_simple(rank, dims.as_ptr(), dims.as_ptr()),
        }
    })
}

/// A space whose first axis may grow without end. The caller holds the lock.
pub(super) fn growing_space(shape: &[usize]) -> Result<Id, H5Error> {
    let dims: Vec<hsize_t> = shape.iter().map(|dim| *dim as hsize_t).collect();
    let mut most = dims.clone();
    if let Some(first) = most.first_mut() {
        *first = H5S_UNLIMITED;
    }
    let rank = i32::try_from(dims.len()).unwrap_or(i32::MAX);
    // SAFETY: the caller holds the lock, and both have that many numbers.
    Id::new(unsafe { H5Screate_simple(rank, dims.as_ptr(), most.as_ptr()) })
}

/// The shape of a space; `None`: it holds nothing at all. The caller holds the lock.
pub(super) fn shape(id: &Id) -> Result<Option<Vec<usize>>, H5Error> {
    let mut dims: [hsize_t; MAX_RANK] = [0; MAX_RANK];
    // SAFETY: the caller holds the lock, and no space has more axes than there is room for.
    unsafe {
        if H5Sget_simple_extent_type(id.get()) == H5S_class_t::H5S_NULL {
            return Ok(None);
        }
        let rank = check(H5Sget_simple_extent_dims(id.get(), dims.as_mut_ptr(), std::ptr::null_mut()))?;
        let dims = dims.iter().take(usize::try_from(rank).unwrap_or(0));
        let sizes = dims.map(|dim| usize::try_from(*dim));
        sizes.collect::<Result<_, _>>().map(Some).map_err(|_| H5Error::new("an axis is too long"))
    }
}

/// A name for the library.
pub(super) fn name(text: &str) -> Result<CString, H5Error> {
    CString::new(text).map_err(|_| H5Error::new("a name with NUL"))
}
