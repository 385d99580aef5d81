//! The virtual file driver: through it the HDF5 library reads and writes a [`Session`] instead of a file.
//!
//! Written against `H5FDpublic.h` (1.10) and `H5FDdevelop.h` (1.14 and later) of the library's documentation, "HDF5 Virtual
//! File Layer". The two lay out the class of a driver differently; which one holds is asked at run time.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::{Arc, OnceLock};

use hdf5_sys::h5fd::{H5FD_class_t, H5FDregister};
use hdf5_sys::h5i::hid_t;
use parking_lot::Mutex;

use super::library::version;
use crate::medium::Session;

/// A session that the driver and the one who commits share.
pub(crate) type SharedSession = Arc<Mutex<Session>>;

type Herr = c_int;
type Address = u64;

const OK: Herr = 0;
const FAILED: Herr = -1;
const UNDEFINED: Address = u64::MAX;

/// What the driver asks of the library: to hand out room for metadata and small data from larger blocks, and to know that
/// the file is an ordinary one (`H5FD_FEAT_AGGREGATE_METADATA`, `_AGGREGATE_SMALLDATA`, `_DEFAULT_VFD_COMPATIBLE`).
const FEATURES: c_ulong = 0x1 | 0x10 | 0x8000;

/// Room for the library's own fields at the beginning of an open file: `H5FD_t` takes 72 to 88 bytes in the versions
/// that are supported.
const HEAD: usize = 32;

/// The callbacks in the order in which all versions have them, from `sb_size` to `dxpl_free`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Properties {
    sb_size: *const c_void,
    sb_encode: *const c_void,
    sb_decode: *const c_void,
    fapl_size: usize,
    fapl_get: *const c_void,
    fapl_copy: *const c_void,
    fapl_free: *const c_void,
    dxpl_size: usize,
    dxpl_copy: *const c_void,
    dxpl_free: *const c_void,
}

/// From `open` to `write`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Access {
    open: unsafe extern "C" fn(*const c_char, c_uint, hid_t, Address) -> *mut OpenFile,
    close: unsafe extern "C" fn(*mut OpenFile) -> Herr,
    cmp: unsafe extern "C" fn(*const OpenFile, *const OpenFile) -> c_int,
    query: unsafe extern "C" fn(*const OpenFile, *mut c_ulong) -> Herr,
    get_type_map: *const c_void,
    alloc: *const c_void,
    free: *const c_void,
    get_eoa: unsafe extern "C" fn(*const OpenFile, c_int) -> Address,
    set_eoa: unsafe extern "C" fn(*mut OpenFile, c_int, Address) -> Herr,
    get_eof: unsafe extern "C" fn(*const OpenFile, c_int) -> Address,
    get_handle: *const c_void,
    read: unsafe extern "C" fn(*mut OpenFile, c_int, hid_t, Address, usize, *mut c_void) -> Herr,
    write: unsafe extern "C" fn(*mut OpenFile, c_int, hid_t, Address, usize, *const c_void) -> Herr,
}

/// From `flush` to `unlock`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ending {
    flush: *const c_void,
    truncate: unsafe extern "C" fn(*mut OpenFile, hid_t, u8) -> Herr,
    lock: *const c_void,
    unlock: *const c_void,
}

/// The class of a driver in 1.10.
#[repr(C)]
struct Class110 {
    name: *const c_char,
    maxaddr: Address,
    fc_degree: c_int,
    terminate: *const c_void,
    properties: Properties,
    access: Access,
    ending: Ending,
    fl_map: [c_int; 7],
}

/// The class of a driver since 1.14.
#[repr(C)]
struct Class114 {
    version: c_uint,
    value: c_int,
    name: *const c_char,
    maxaddr: Address,
    fc_degree: c_int,
    terminate: *const c_void,
    properties: Properties,
    access: Access,
    read_vector: *const c_void,
    write_vector: *const c_void,
    read_selection: *const c_void,
    write_selection: *const c_void,
    ending: Ending,
    del: *const c_void,
    ctl: *const c_void,
    fl_map: [c_int; 7],
}

const NAME: *const c_char = c"persist".as_ptr();
/// The largest address: the library counts in signed 64-bit offsets.
const MAX_ADDRESS: Address = i64::MAX as u64;
/// `H5F_CLOSE_STRONG`: closing a file closes what is open in it.
const CLOSE_STRONG: c_int = 3;
/// Numbers from 512 on are free for tests and private use.
const PRIVATE_VALUE: c_int = 511;
/// One list of free space for metadata, one for data (`H5FD_FLMAP_DICHOTOMY`).
const FREE_LISTS: [c_int; 7] = [1, 1, 1, 3, 3, 1, 1];

const PROPERTIES: Properties = Properties {
    sb_size: null(),
    sb_encode: null(),
    sb_decode: null(),
    fapl_size: 0,
    fapl_get: null(),
    fapl_copy: null(),
    fapl_free: null(),
    dxpl_size: 0,
    dxpl_copy: null(),
    dxpl_free: null(),
};

const ACCESS: Access = Access {
    open,
    close,
    cmp,
    query,
    get_type_map: null(),
    alloc: null(),
    free: null(),
    get_eoa,
    set_eoa,
    get_eof,
    get_handle: null(),
    read,
    write,
};

const ENDING: Ending = Ending { flush: null(), truncate, lock: null(), unlock: null() };

/// A file that the library has open: its own fields, then ours.
#[repr(C)]
struct OpenFile {
    head: [u64; HEAD],
    session: SharedSession,
}

thread_local! {
    /// The session that the next file opened on this thread stands for.
    static NEXT: RefCell<Option<SharedSession>> = const { RefCell::new(None) };
}

/// The id of the driver; negative if the library refused it.
pub(super) fn id() -> hid_t {
    static ID: OnceLock<hid_t> = OnceLock::new();
    *ID.get_or_init(register)
}

/// Opens a file of the library with a session behind it.
pub(super) fn with_session<T>(session: &SharedSession, open: impl FnOnce() -> T) -> T {
    NEXT.with_borrow_mut(|next| *next = Some(Arc::clone(session)));
    let opened = open();
    NEXT.with_borrow_mut(|next| *next = None);
    opened
}

fn register() -> hid_t {
    let class: *const c_void = match version() {
        (1, 10, _) => Box::into_raw(Box::new(Class110 {
            name: NAME,
            maxaddr: MAX_ADDRESS,
            fc_degree: CLOSE_STRONG,
            terminate: null(),
            properties: PROPERTIES,
            access: ACCESS,
            ending: ENDING,
            fl_map: FREE_LISTS,
        }))
        .cast(),
        (1, 14.., _) | (2.., _, _) => Box::into_raw(Box::new(Class114 {
            version: 1,
            value: PRIVATE_VALUE,
            name: NAME,
            maxaddr: MAX_ADDRESS,
            fc_degree: CLOSE_STRONG,
            terminate: null(),
            properties: PROPERTIES,
            access: ACCESS,
            read_vector: null(),
            write_vector: null(),
            read_selection: null(),
            write_selection: null(),
            ending: ENDING,
            del: null(),
            ctl: null(),
            fl_map: FREE_LISTS,
        }))
        .cast(),
        _ => return -1,
    };
    // SAFETY: the class is laid out as this version of the library declares it, and lives as long as the process. The
    // library's lock is held by the caller.
    unsafe { H5FDregister(class.cast::<H5FD_class_t>()) }
}

/// Does something with the session of an open file; nothing may unwind into the library.
///
/// # Safety
/// `file` came from [`open`] and was not closed.
unsafe fn with<T>(file: *const OpenFile, failed: T, work: impl FnOnce(&mut Session) -> T) -> T {
    // SAFETY: `open` made it with a valid session, and only `close` ends it.
    let session = unsafe { &(*file).session };
    catch_unwind(AssertUnwindSafe(|| work(&mut session.lock()))).unwrap_or(failed)
}

unsafe extern "C" fn open(_: *const c_char, _: c_uint, _: hid_t, _: Address) -> *mut OpenFile {
    let session = NEXT.with_borrow(Clone::clone);
    match session {
        Some(session) => Box::into_raw(Box::new(OpenFile { head: [0; HEAD], session })),
        None => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn close(file: *mut OpenFile) -> Herr {
    // SAFETY: the library closes what `open` gave it, once.
    drop(unsafe { Box::from_raw(file) });
    OK
}

unsafe extern "C" fn cmp(one: *const OpenFile, other: *const OpenFile) -> c_int {
    // SAFETY: both are open.
    let (one, other) = unsafe { (Arc::as_ptr(&(*one).session), Arc::as_ptr(&(*other).session)) };
    one.cmp(&other) as c_int
}

unsafe extern "C" fn query(_: *const OpenFile, features: *mut c_ulong) -> Herr {
    if !features.is_null() {
        // SAFETY: the library gives a place for them.
        unsafe { *features = FEATURES };
    }
    OK
}

unsafe extern "C" fn get_eoa(file: *const OpenFile, _: c_int) -> Address {
    // SAFETY: the library passes an open file.
    unsafe { with(file, UNDEFINED, |session| session.reserved()) }
}

unsafe extern "C" fn set_eoa(file: *mut OpenFile, _: c_int, end: Address) -> Herr {
    // SAFETY: the library passes an open file.
    unsafe {
        with(file, FAILED, |session| {
            session.reserve(end);
            OK
        })
    }
}

unsafe extern "C" fn get_eof(file: *const OpenFile, _: c_int) -> Address {
    // SAFETY: the library passes an open file.
    unsafe { with(file, UNDEFINED, |session| session.end()) }
}

unsafe extern "C" fn read(
    file: *mut OpenFile,
    _: c_int,
    _: hid_t,
    at: Address,
    len: usize,
    buffer: *mut c_void,
) -> Herr {
    // SAFETY: the library passes an open file, and a buffer of `len` bytes that nobody else uses meanwhile.
    unsafe {
        with(file, FAILED, |session| {
            std::ptr::write_bytes(buffer.cast::<u8>(), 0, len);
            let buffer = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len);
            match session.read(at, buffer) {
                Ok(()) => OK,
                Err(error) => {
                    session.fail(error);
                    FAILED
                }
            }
        })
    }
}

unsafe extern "C" fn write(
    file: *mut OpenFile,
    _: c_int,
    _: hid_t,
    at: Address,
    len: usize,
    buffer: *const c_void,
) -> Herr {
    // SAFETY: the library passes an open file, and `len` bytes that nobody changes meanwhile.
    unsafe {
        with(file, FAILED, |session| {
            session.write(at, std::slice::from_raw_parts(buffer.cast::<u8>(), len));
            OK
        })
    }
}

unsafe extern "C" fn truncate(file: *mut OpenFile, _: hid_t, _: u8) -> Herr {
    // SAFETY: the library passes an open file.
    unsafe {
        with(file, FAILED, |session| {
            session.truncate();
            OK
        })
    }
}
