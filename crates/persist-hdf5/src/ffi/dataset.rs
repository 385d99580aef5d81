//! Datasets: made, written, read, and what stands beside their data.

use std::ffi::{CStr, c_char, c_void};

use hdf5_sys::h5d::{
    H5D_layout_t, H5Dget_create_plist, H5Dget_offset, H5Dget_space, H5Dget_type, H5Dread, H5Dwrite,
};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5p::{H5P_DEFAULT, H5Pget_external_count, H5Pget_layout};
use hdf5_sys::h5s::H5S_ALL;
use hdf5_sys::h5t::{H5T_class_t, H5Tget_class, H5Tget_size, H5Tis_variable_str};
use persist_core::DType;

use super::attribute;
use super::library::{H5Error, Id, check, lock};
use super::types::{self, Elements};

/// How a dataset keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In one piece of the file.
    Contiguous,
    /// In the header of the dataset.
    Compact,
    /// In pieces.
    Chunked,
    /// In other files or datasets.
    Elsewhere,
}

/// An open dataset.
#[derive(Debug)]
pub(crate) struct Dataset {
    id: Id,
}

impl Dataset {
    pub(super) fn new(id: Id) -> Self {
        Self { id }
    }

    pub(super) fn id(&self) -> hid_t {
        self.id.get()
    }

    /// Where in the file its data lie, if they lie there in one piece.
    pub(crate) fn offset(&self) -> Option<u64> {
        let _lock = lock();
        // SAFETY: the lock is held.
        let offset = unsafe { H5Dget_offset(self.id()) };
        (offset != u64::MAX).then_some(offset)
    }

    /// What its elements are.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn elements(&self) -> Result<Elements, H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held.
        let id = Id::new(unsafe { H5Dget_type(self.id()) })?;
        types::elements(id.get())
    }

    /// Its shape; `None`: it is empty by its nature.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn shape(&self) -> Result<Option<Vec<usize>>, H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held.
        types::shape(&Id::new(unsafe { H5Dget_space(self.id()) })?)
    }

    /// How it keeps its data.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn layout(&self) -> Result<Layout, H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held.
        unsafe {
            let list = Id::new(H5Dget_create_plist(self.id()))?;
            Ok(match H5Pget_layout(list.get()) {
                H5D_layout_t::H5D_CONTIGUOUS if H5Pget_external_count(list.get()) > 0 => Layout::Elsewhere,
                H5D_layout_t::H5D_CONTIGUOUS => Layout::Contiguous,
                H5D_layout_t::H5D_COMPACT => Layout::Compact,
                H5D_layout_t::H5D_CHUNKED => Layout::Chunked,
                _ => Layout::Elsewhere,
            })
        }
    }

    /// Writes all elements, which lie in the buffer as they do in the file.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn write(&self, buffer: &[u8]) -> Result<(), H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held; `fits` makes sure that the buffer is as long as the dataset.
        unsafe {
            let memory = Id::new(H5Dget_type(self.id()))?;
            self.fits(&memory, buffer.len())?;
            if buffer.is_empty() {
                return Ok(());
            }
            let data = buffer.as_ptr().cast::<c_void>();
            check(H5Dwrite(self.id(), memory.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data)).map(drop)
        }
    }

    /// Reads all elements as numbers of a dtype.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn read(&self, dtype: DType, buffer: &mut [u8]) -> Result<(), H5Error> {
        let _lock = lock();
        let memory = types::stored(dtype)?;
        self.read_as(&memory, buffer)
    }

    /// Reads all elements as they lie in the file, which must be plain data.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn read_plain(&self, buffer: &mut [u8]) -> Result<(), H5Error> {
        let _lock = lock();
        // SAFETY: the lock is held.
        let memory = unsafe { Id::new(H5Dget_type(self.id()))? };
        // SAFETY: as above.
        let class = unsafe { H5Tget_class(memory.get()) };
        if matches!(class, H5T_class_t::H5T_VLEN | H5T_class_t::H5T_REFERENCE | H5T_class_t::H5T_NO_CLASS) {
            return Err(H5Error::new("the elements are no plain data"));
        }
        self.read_as(&memory, buffer)
    }

    fn read_as(&self, memory: &Id, buffer: &mut [u8]) -> Result<(), H5Error> {
        self.fits(memory, buffer.len())?;
        if buffer.is_empty() {
            return Ok(());
        }
        let data = buffer.as_mut_ptr().cast::<c_void>();
        // SAFETY: the caller holds the lock; `fits` made sure that the buffer is as long as the dataset.
        check(unsafe { H5Dread(self.id(), memory.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) }).map(drop)
    }

    /// Reads strings of any length.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn read_texts(&self) -> Result<Vec<Vec<u8>>, H5Error> {
        let _lock = lock();
        let count = self.shape()?.map_or(0, |shape| shape.iter().product());
        // SAFETY: the lock is held; there is room for a pointer to each text. The library allocates the texts, and takes
        // them back.
        unsafe {
            let memory = types::any_text(Id::new(H5Dget_type(self.id()))?.get())?;
            if check(H5Tis_variable_str(memory.get()))? == 0 {
                return Err(H5Error::new("the elements are no strings of any length"));
            }
            let mut texts: Vec<*mut c_char> = vec![std::ptr::null_mut(); count];
            if count == 0 {
                return Ok(Vec::new());
            }
            let data = texts.as_mut_ptr().cast::<c_void>();
            check(H5Dread(self.id(), memory.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data))?;
            let read = texts.iter().map(|text| match text.is_null() {
                true => Vec::new(),
                false => CStr::from_ptr(*text).to_bytes().to_vec(),
            });
            let read = read.collect();
            for text in texts {
                hdf5_sys::h5::H5free_memory(text.cast());
            }
            Ok(read)
        }
    }

    /// Reads what persist knows of the value; `None`: nothing, somebody else made the dataset.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn record(&self) -> Result<Option<Vec<u8>>, H5Error> {
        attribute::record(self.id())
    }

    /// Notes what persist knows of the value.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn set_record(&self, text: &str) -> Result<(), H5Error> {
        attribute::set_record(self.id(), text)
    }

    fn fits(&self, memory: &Id, len: usize) -> Result<(), H5Error> {
        let count = self.shape()?.map_or(0, |shape| shape.iter().product::<usize>());
        // SAFETY: the caller holds the lock.
        let size = unsafe { H5Tget_size(memory.get()) };
        match count.checked_mul(size) == Some(len) {
            true => Ok(()),
            false => Err(H5Error::new(format!("{count} elements of {size} bytes are not {len} bytes"))),
        }
    }
}
