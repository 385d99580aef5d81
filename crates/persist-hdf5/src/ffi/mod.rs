//! The only module with `unsafe`: the HDF5 library behind safe types, and the driver through which it reaches its file.
//!
//! Every call takes the library's lock first. Identifiers are given back when their owner is dropped; no callback unwinds
//! into the library. Links that lead out of the file (external, user-defined) and soft links are never followed.
#![allow(unsafe_code, reason = "the one module that calls into C")]

mod attribute;
mod chunks;
mod dataset;
mod driver;
mod file;
mod library;
mod szip;
mod types;

pub(crate) use dataset::{Dataset, Layout};
pub(crate) use driver::SharedSession;
pub(crate) use file::{H5File, Item, Shape};
pub(crate) use library::{H5Error, version};
pub(crate) use szip::Szip;
pub(crate) use types::Elements;
