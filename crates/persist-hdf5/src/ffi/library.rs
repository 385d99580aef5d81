//! The library as such: its lock, its version, its identifiers and its errors.

use std::cell::Cell;
use std::ffi::{CStr, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

use hdf5_sys::h5::{H5get_libversion, H5open};
use hdf5_sys::h5e::{H5E_DEFAULT, H5E_direction_t, H5E_error2_t, H5Eclear2, H5Eset_auto2, H5Ewalk2};
use hdf5_sys::h5i::{H5Idec_ref, hid_t};
use hdf5_sys::h5pl::H5PLset_loading_state;

thread_local! {
    /// Whether the library was told that this thread wants no errors printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The library's one lock, shared with every other user of the bindings in this process.
pub(super) fn lock() -> impl Drop {
    let lock = hdf5_sys::LOCK.lock();
    if !QUIET.replace(true) {
        // SAFETY: the lock is held; the library takes this at any time. If it was built for threads it is each thread's own.
        unsafe { H5Eset_auto2(H5E_DEFAULT, None, std::ptr::null_mut()) };
    }
    lock
}

/// The version of the library that runs: major, minor, release.
pub(crate) fn version() -> (u32, u32, u32) {
    static VERSION: OnceLock<(u32, u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let _lock = lock();
        let (mut major, mut minor, mut release) = (0, 0, 0);
        // SAFETY: the lock is held, and there is room for three numbers.
        unsafe { H5get_libversion(&raw mut major, &raw mut minor, &raw mut release) };
        (major, minor, release)
    })
}

/// Makes the library ready: it loads no filters from elsewhere. The caller holds the lock.
pub(super) fn begin() {
    static BEGUN: OnceLock<()> = OnceLock::new();
    BEGUN.get_or_init(|| {
        let mut no_plugins = 0;
        // SAFETY: the lock is held; the library takes these at any time.
        unsafe {
            H5open();
            H5PLset_loading_state(&raw mut no_plugins);
        }
        super::chunks::register();
    });
}

/// What the library says went wrong, from what was asked down to the cause.
#[derive(Debug)]
pub(crate) struct H5Error(String);

impl fmt::Display for H5Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for H5Error {}

impl H5Error {
    /// Something that was found beside the library.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// What the library noted of the last call. The caller holds the lock.
    fn last() -> Self {
        let mut notes: Vec<String> = Vec::new();
        // SAFETY: the lock is held, and the callback gets what is passed here.
        unsafe {
            H5Ewalk2(H5E_DEFAULT, H5E_direction_t::H5E_WALK_DOWNWARD, Some(note), (&raw mut notes).cast());
            H5Eclear2(H5E_DEFAULT);
        }
        notes.dedup();
        if notes.is_empty() {
            return Self("the library gives no reason".to_owned());
        }
        Self(persist_core::escape(&notes.join(": ")))
    }
}

unsafe extern "C" fn note(_: c_uint, error: *const H5E_error2_t, notes: *mut c_void) -> i32 {
    // SAFETY: the library passes a valid error, and what was given to `H5Ewalk2`.
    unsafe {
        let text = (*error).desc;
        if !text.is_null() {
            let notes = &mut *notes.cast::<Vec<String>>();
            notes.push(CStr::from_ptr(text).to_string_lossy().into_owned());
        }
    }
    0
}

/// What the library answered, if it was no failure. The caller holds the lock.
pub(super) fn check<T: Answer>(answer: T) -> Result<T, H5Error> {
    if answer.failed() { Err(H5Error::last()) } else { Ok(answer) }
}

/// Numbers of which the negative ones mean a failure.
pub(super) trait Answer: Copy {
    fn failed(self) -> bool;
}

impl Answer for i32 {
    fn failed(self) -> bool {
        self < 0
    }
}

impl Answer for i64 {
    fn failed(self) -> bool {
        self < 0
    }
}

impl Answer for isize {
    fn failed(self) -> bool {
        self < 0
    }
}

/// An identifier that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Id(hid_t);

impl Id {
    /// Takes over what the library answered. The caller holds the lock.
    pub(super) fn new(answer: hid_t) -> Result<Self, H5Error> {
        check(answer).map(Self)
    }

    /// The number itself.
    pub(super) fn get(&self) -> hid_t {
        self.0
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        let _lock = lock();
        // SAFETY: the lock is held, and the identifier was ours. What fails here was reported where it was written.
        unsafe { H5Idec_ref(self.0) };
    }
}
