//! Files: opened over a session, and the tree in them.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::Range;

use hdf5_sys::h5::{H5_index_t, H5_iter_order_t};
use hdf5_sys::h5d::{H5D_alloc_time_t, H5D_fill_time_t, H5Dcreate_anon, H5Dcreate2, H5Dopen2};
use hdf5_sys::h5f::{
    H5F_ACC_RDONLY, H5F_ACC_RDWR, H5F_ACC_TRUNC, H5F_close_degree_t, H5F_libver_t, H5F_mem_t, H5F_scope_t,
    H5F_sect_info_t, H5Fclose, H5Fcreate, H5Fflush, H5Fget_free_sections, H5Fopen,
};
use hdf5_sys::h5g::{H5G_info_t, H5Gcreate2, H5Gget_info, H5Gopen2};
use hdf5_sys::h5i::{H5I_type_t, H5Iget_type, hid_t};
use hdf5_sys::h5l::{H5L_info_t, H5L_type_t, H5Lcopy, H5Ldelete, H5Literate, H5Lmove};
use hdf5_sys::h5o::{H5O_info1_t, H5Ocopy, H5Oget_info2, H5Olink, H5Oopen};
use hdf5_sys::h5p::{
    H5P_CLS_DATASET_CREATE, H5P_CLS_FILE_ACCESS, H5P_CLS_LINK_CREATE, H5P_DEFAULT, H5Pcreate,
    H5Pset_alloc_time, H5Pset_char_encoding, H5Pset_create_intermediate_group, H5Pset_driver,
    H5Pset_fclose_degree, H5Pset_fill_time, H5Pset_libver_bounds,
};
use hdf5_sys::h5t::H5T_cset_t;
use persist_core::{Array, DType};

use super::attribute;
use super::chunks;
use super::dataset::Dataset;
use super::driver::{self, SharedSession, with_session};
use super::library::{H5Error, Id, begin, check, lock, version};
use super::types;
use crate::chunk::Grid;
use crate::codec::Filter;

/// `H5O_INFO_BASIC`.
const BASIC: u32 = 1;

/// Something in a group.
#[derive(Debug)]
pub(crate) enum Item {
    Dataset(Dataset),
    /// A group, and the place that tells it from all others.
    Group(u64),
    /// What persist does not look into: links that are not hard, named types.
    Other,
}

/// An open file. Whatever is open in it ends with it.
#[derive(Debug)]
pub(crate) struct H5File {
    id: hid_t,
    properties: Properties,
}

/// Lists of properties that are used again and again.
#[derive(Debug)]
struct Properties {
    /// Links with names in UTF-8, and the groups above them made as needed.
    link: Id,
    /// Data in one piece, reserved at once and not filled first.
    contiguous: Id,
}

impl Properties {
    fn new() -> Result<Self, H5Error> {
        // SAFETY: the caller holds the lock, and the library was begun.
        unsafe {
            let link = Id::new(H5Pcreate(*H5P_CLS_LINK_CREATE))?;
            check(H5Pset_create_intermediate_group(link.get(), 1))?;
            check(H5Pset_char_encoding(link.get(), H5T_cset_t::H5T_CSET_UTF8))?;
            let contiguous = Id::new(H5Pcreate(*H5P_CLS_DATASET_CREATE))?;
            check(H5Pset_alloc_time(contiguous.get(), H5D_alloc_time_t::H5D_ALLOC_TIME_EARLY))?;
            check(H5Pset_fill_time(contiguous.get(), H5D_fill_time_t::H5D_FILL_TIME_NEVER))?;
            Ok(Self { link, contiguous })
        }
    }
}

/// How a new file is written: readable by every HDF5 since 1.8, with groups that stay quick when they are large.
fn access() -> Result<Id, H5Error> {
    // SAFETY: the caller holds the lock, and the library was begun.
    unsafe {
        let list = Id::new(H5Pcreate(*H5P_CLS_FILE_ACCESS))?;
        let driver = driver::id();
        if driver < 0 {
            let (major, minor, release) = version();
            return Err(H5Error::new(format!(
                "HDF5 {major}.{minor}.{release} is not supported; use 1.10, 1.14 or later"
            )));
        }
        check(H5Pset_driver(list.get(), driver, std::ptr::null()))?;
        check(H5Pset_fclose_degree(list.get(), H5F_close_degree_t::H5F_CLOSE_STRONG))?;
        check(H5Pset_libver_bounds(list.get(), H5F_libver_t::H5F_LIBVER_V18, H5F_libver_t::H5F_LIBVER_V110))?;
        Ok(list)
    }
}

impl H5File {
    /// Makes an empty file in an empty session.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn create(session: &SharedSession) -> Result<Self, H5Error> {
        Self::begin(session, |list| {
            // SAFETY: the lock is held. The driver does not look at the name.
            unsafe { H5Fcreate(c"persist".as_ptr(), H5F_ACC_TRUNC, H5P_DEFAULT, list) }
        })
    }

    /// Opens the file of a session.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn open(session: &SharedSession, writable: bool) -> Result<Self, H5Error> {
        let flags = if writable { H5F_ACC_RDWR } else { H5F_ACC_RDONLY };
        // SAFETY: as above.
        Self::begin(session, |list| unsafe { H5Fopen(c"persist".as_ptr(), flags, list) })
    }

    fn begin(session: &SharedSession, open: impl FnOnce(hid_t) -> hid_t) -> Result<Self, H5Error> {
        let _lock = lock();
        begin();
        let (list, properties) = (access()?, Properties::new()?);
        let id = check(with_session(session, || open(list.get())))?;
        Ok(Self { id, properties })
    }

    /// Hands everything that the library keeps in memory to the session.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn flush(&self) -> Result<(), H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held.
        check(unsafe { H5Fflush(self.id, H5F_scope_t::H5F_SCOPE_LOCAL) }).map(drop)
    }

    /// Closes it.
    ///
    /// # Errors
    /// What the library says; it is closed all the same.
    pub(crate) fn close(self) -> Result<(), H5Error> {
        let _lock = lock();
        let file = std::mem::ManuallyDrop::new(self);
        // SAFETY: the lock is held, and the file is closed once. The lists are given back as they would be by `Drop`.
        unsafe {
            drop(std::ptr::read(&raw const file.properties));
            check(H5Fclose(file.id)).map(drop)
        }
    }

    /// The places of the file that hold nothing.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn free_places(&self) -> Result<Vec<Range<u64>>, H5Error> {
        let _lock = lock();
        let all = H5F_mem_t::H5FD_MEM_DEFAULT;
        // SAFETY: the lock is held, and there is room for as many as the library counted.
        unsafe {
            let count = check(H5Fget_free_sections(self.id, all, 0, std::ptr::null_mut()))?;
            let count = usize::try_from(count).unwrap_or(0);
            let mut found = vec![H5F_sect_info_t { addr: 0, size: 0 }; count];
            if count > 0 {
                check(H5Fget_free_sections(self.id, all, count, found.as_mut_ptr()))?;
            }
            Ok(found.iter().map(|place| place.addr..place.addr.saturating_add(place.size)).collect())
        }
    }

    /// Makes a dataset at a path, with the groups above it; its data lie in one piece.
    ///
    /// # Errors
    /// What the library says; also if something lies there.
    pub(crate) fn create_dataset(&self, path: &str, shape: &Shape<'_>) -> Result<Dataset, H5Error> {
        let _lock = lock();
        let (path, kind, space) = (types::name(path)?, shape.kind()?, types::space(shape.dims)?);
        let Properties { link, contiguous } = &self.properties;
        // SAFETY: the lock is held.
        Id::new(unsafe {
            let (link, list) = (link.get(), contiguous.get());
            H5Dcreate2(self.id, path.as_ptr(), kind.get(), space.get(), link, list, H5P_DEFAULT)
        })
        .map(Dataset::new)
    }

    /// Makes a dataset that has no path yet; its data lie in one piece.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn create_unnamed(&self, shape: &Shape<'_>) -> Result<Dataset, H5Error> {
        let _lock = lock();
        self.create_with(shape, &types::space(shape.dims)?, &self.properties.contiguous)
    }

    /// Makes a dataset that has no path yet, in chunks that are written one by one. Its first axis may grow.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn create_chunked(
        &self,
        shape: &Shape<'_>,
        grid: &Grid,
        pipeline: &[Filter],
    ) -> Result<Dataset, H5Error> {
        let _lock = lock();
        let list = chunks::properties(&grid.chunk, pipeline, grid.chunk_bytes())?;
        self.create_with(shape, &types::growing_space(shape.dims)?, &list)
    }

    fn create_with(&self, shape: &Shape<'_>, space: &Id, list: &Id) -> Result<Dataset, H5Error> {
        let kind = shape.kind()?;
        // SAFETY: the caller holds the lock.
        Id::new(unsafe { H5Dcreate_anon(self.id, kind.get(), space.get(), list.get(), H5P_DEFAULT) })
            .map(Dataset::new)
    }

    /// Gives a dataset a path.
    ///
    /// # Errors
    /// What the library says; also if something lies there.
    pub(crate) fn link(&self, dataset: &Dataset, path: &str) -> Result<(), H5Error> {
        let _lock = lock();
        let path = types::name(path)?;
        let link = self.properties.link.get();
        // SAFETY: the lock is held.
        check(unsafe { H5Olink(dataset.id(), self.id, path.as_ptr(), link, H5P_DEFAULT) }).map(drop)
    }

    /// Opens the dataset at a path.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn dataset(&self, path: &str) -> Result<Dataset, H5Error> {
        let _lock = lock();
        let path = types::name(path)?;
        // SAFETY: the lock is held.
        Id::new(unsafe { H5Dopen2(self.id, path.as_ptr(), H5P_DEFAULT) }).map(Dataset::new)
    }

    /// Takes what lies at a path out of the tree; its room is free then.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn remove(&self, path: &str) -> Result<(), H5Error> {
        let _lock = lock();
        let path = types::name(path)?;
        // SAFETY: the lock is held.
        check(unsafe { H5Ldelete(self.id, path.as_ptr(), H5P_DEFAULT) }).map(drop)
    }

    /// Gives what lies at a path another one.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), H5Error> {
        let _lock = lock();
        let (from, to) = (types::name(from)?, types::name(to)?);
        let link = self.properties.link.get();
        // SAFETY: the lock is held.
        check(unsafe { H5Lmove(self.id, from.as_ptr(), self.id, to.as_ptr(), link, H5P_DEFAULT) }).map(drop)
    }

    /// Makes a group.
    ///
    /// # Errors
    /// What the library says; also if something lies there.
    pub(crate) fn create_group(&self, path: &str) -> Result<(), H5Error> {
        let _lock = lock();
        let path = types::name(path)?;
        let link = self.properties.link.get();
        // SAFETY: the lock is held.
        Id::new(unsafe { H5Gcreate2(self.id, path.as_ptr(), link, H5P_DEFAULT, H5P_DEFAULT) }).map(drop)
    }

    /// How many links a group holds.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn count(&self, group: &str) -> Result<u64, H5Error> {
        let _lock = lock();
        let group = self.group(group)?;
        let mut info = H5G_info_t::default();
        // SAFETY: the lock is held, and there is room for the answer.
        check(unsafe { H5Gget_info(group.get(), &raw mut info) })?;
        Ok(info.nlinks)
    }

    /// The place that tells a group from all others.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn place(&self, group: &str) -> Result<u64, H5Error> {
        let _lock = lock();
        place(&self.group(group)?)
    }

    /// What a group holds, by name; names that are no text are left out.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn list(&self, group: &str) -> Result<Vec<(String, Item)>, H5Error> {
        let _lock = lock();
        let group = self.group(group)?;
        let named = links(&group)?.into_iter();
        let named = named.filter_map(|link| Some((link.name.into_string().ok()?, link.hard)));
        named.map(|(name, hard)| item(&group, &name, hard).map(|item| (name, item))).collect()
    }

    /// Copies everything in another file into this one, which is empty.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn copy_all(&self, source: &Self) -> Result<(), H5Error> {
        let _lock = lock();
        let (from, to) = (source.group("/")?, self.group("/")?);
        attribute::copy_all(from.get(), to.get())?;
        for link in links(&from)? {
            let (name, list) = (link.name.as_ptr(), self.properties.link.get());
            // SAFETY: the lock is held. A link that is not hard is copied as it is, without being followed.
            check(unsafe {
                match link.hard {
                    true => H5Ocopy(from.get(), name, to.get(), name, H5P_DEFAULT, list),
                    false => H5Lcopy(from.get(), name, to.get(), name, list, H5P_DEFAULT),
                }
            })?;
        }
        Ok(())
    }

    /// The record of the file.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn record(&self) -> Result<Option<Vec<u8>>, H5Error> {
        let _lock = lock();
        attribute::record(self.group("/")?.get())
    }

    /// Notes the record of the file.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn set_record(&self, text: &str) -> Result<(), H5Error> {
        let _lock = lock();
        attribute::set_record(self.group("/")?.get(), text)
    }

    fn group(&self, path: &str) -> Result<Id, H5Error> {
        let path = types::name(path)?;
        // SAFETY: the caller holds the lock.
        Id::new(unsafe { H5Gopen2(self.id, path.as_ptr(), H5P_DEFAULT) })
    }
}

impl Drop for H5File {
    fn drop(&mut self) {
        let _lock = lock();
        // SAFETY: the lock is held, and the file is closed once.
        unsafe { H5Fclose(self.id) };
    }
}

/// The type and shape of a dataset that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// `None`: text of `text` bytes.
    pub(crate) dtype: Option<DType>,
    pub(crate) text: usize,
    pub(crate) dims: &'a [usize],
}

impl<'a> Shape<'a> {
    /// A text.
    pub(crate) fn text(len: usize) -> Self {
        Self { dtype: None, text: len, dims: &[] }
    }

    /// An array.
    pub(crate) fn array(array: &'a Array) -> Self {
        Self { dtype: Some(array.dtype()), text: 0, dims: array.shape() }
    }

    /// A row of bytes.
    pub(crate) fn bytes(len: &'a [usize; 1]) -> Self {
        Self { dtype: Some(DType::U8), text: 0, dims: len }
    }

    fn kind(&self) -> Result<Id, H5Error> {
        match self.dtype {
            Some(dtype) => types::stored(dtype),
            None => types::text(self.text),
        }
    }
}

/// A link as it was met.
struct Link {
    name: CString,
    hard: bool,
}

/// The links in a group. The caller holds the lock.
fn links(group: &Id) -> Result<Vec<Link>, H5Error> {
    let mut links: Vec<Link> = Vec::new();
    let found = (&raw mut links).cast::<c_void>();
    let (by_name, any) = (H5_index_t::H5_INDEX_NAME, H5_iter_order_t::H5_ITER_NATIVE);
    let mut from = 0;
    // SAFETY: the lock is held, and the callback gets what is passed here.
    check(unsafe { H5Literate(group.get(), by_name, any, &raw mut from, Some(note), found) })?;
    Ok(links)
}

extern "C" fn note(_: hid_t, name: *const c_char, info: *const H5L_info_t, found: *mut c_void) -> i32 {
    // SAFETY: the library passes a name, valid information, and what was given to `H5Literate`.
    unsafe {
        let name = CStr::from_ptr(name).to_owned();
        let hard = (*info).type_ == H5L_type_t::H5L_TYPE_HARD;
        (*found.cast::<Vec<Link>>()).push(Link { name, hard });
    }
    0
}

fn place(object: &Id) -> Result<u64, H5Error> {
    let mut info = H5O_info1_t::default();
    // SAFETY: the caller holds the lock, and there is room for the answer.
    check(unsafe { H5Oget_info2(object.get(), &raw mut info, BASIC) })?;
    Ok(info.addr)
}

fn item(group: &Id, name: &str, hard: bool) -> Result<Item, H5Error> {
    if !hard {
        return Ok(Item::Other);
    }
    let name = types::name(name)?;
    // SAFETY: the caller holds the lock, and there is room for the answer.
    unsafe {
        let object = Id::new(H5Oopen(group.get(), name.as_ptr(), H5P_DEFAULT))?;
        Ok(match H5Iget_type(object.get()) {
            H5I_type_t::H5I_DATASET => Item::Dataset(Dataset::new(object)),
            H5I_type_t::H5I_GROUP => Item::Group(place(&object)?),
            _ => Item::Other,
        })
    }
}
