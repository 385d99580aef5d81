//! Datasets that somebody else wrote, read as values: numbers as arrays, strings as JSON.

use persist_core::{Array, DType, Value};
use serde_json::Value as Tree;

use crate::buffer::Buffer;
use crate::ffi::{Dataset, Elements, H5Error, Layout};
use crate::record::Form;

/// How long an axis of an array of strings may be that has no string in it.
const MOST_LISTS: usize = 1000;

/// Why a dataset is no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForeignError {
    /// Its elements are of a type that persist has no values of.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Its chunks went through a filter that is not here.
    #[error("it needs the filter {0}")]
    Filter(String),
    /// It is larger than the storage accepts.
    #[error("it has {0} bytes")]
    TooLarge(u64),
    /// The library cannot read it.
    #[error("{0}")]
    Library(#[from] H5Error),
}

/// Reads a dataset of anybody; `limit` is the size of the largest value in bytes.
///
/// # Errors
/// If persist has no such values, and what the library says.
pub(crate) fn read(dataset: &Dataset, limit: u64) -> Result<Value, ForeignError> {
    if dataset.layout()? == Layout::Elsewhere {
        return Err(ForeignError::Unsupported(
            "its data lie in other files or datasets, which are not followed",
        ));
    }
    if let Some(filter) = dataset.missing_filter()? {
        return Err(ForeignError::Filter(filter));
    }
    let Some(shape) = dataset.shape()? else {
        return Err(ForeignError::Unsupported("it is of the kind that holds nothing at all"));
    };
    let count = shape.iter().try_fold(1_u64, |product, axis| product.checked_mul(*axis as u64));
    let room = |size: usize| match count.and_then(|count| count.checked_mul(size as u64)) {
        Some(bytes) if bytes <= limit => Buffer::zeroed(bytes).ok_or(ForeignError::TooLarge(bytes)),
        bytes => Err(ForeignError::TooLarge(bytes.unwrap_or(u64::MAX))),
    };
    match dataset.elements()? {
        Elements::Numbers(dtype) => numbers(dataset, dtype, shape, room(dtype.size())?),
        // Lists without strings take room all the same.
        Elements::Strings(_) | Elements::Texts
            if count == Some(0) && shape.iter().any(|axis| *axis > MOST_LISTS) =>
        {
            Err(ForeignError::Unsupported("it has too many empty lists of strings"))
        }
        Elements::Strings(size) => {
            let mut bytes = room(size.max(1))?;
            dataset.read_plain(&mut bytes)?;
            strings(&shape, bytes.chunks(size.max(1)).map(trimmed))
        }
        Elements::Texts => {
            drop(room(size_of::<usize>())?);
            let texts = dataset.read_texts()?;
            strings(&shape, texts.iter().map(Vec::as_slice))
        }
        Elements::Others => Err(ForeignError::Unsupported("its elements are neither numbers nor strings")),
    }
}

fn numbers(
    dataset: &Dataset,
    dtype: DType,
    shape: Vec<usize>,
    mut bytes: Buffer,
) -> Result<Value, ForeignError> {
    dataset.read(dtype, &mut bytes)?;
    let array = Array::new(dtype, shape, bytes.into());
    array.map(Value::Array).map_err(|_| ForeignError::Unsupported("its elements are no valid numbers"))
}

/// Without what fills a string up.
fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &text[..end]
}

/// One string, or lists of them as the shape has it. A string that is JSON text stays that text.
fn strings<'a>(shape: &[usize], texts: impl Iterator<Item = &'a [u8]>) -> Result<Value, ForeignError> {
    let bad = |_| ForeignError::Unsupported("its strings are not UTF-8");
    let mut texts = texts.map(|text| std::str::from_utf8(text).map(|text| Tree::String(text.to_owned())));
    let tree = nested(shape, &mut texts).map_err(bad)?;
    Value::json(&tree).map_err(|_| ForeignError::Unsupported("its strings cannot be written as JSON"))
}

fn nested<E>(shape: &[usize], texts: &mut impl Iterator<Item = Result<Tree, E>>) -> Result<Tree, E> {
    match shape.split_first() {
        None => texts.next().unwrap_or_else(|| Ok(Tree::String(String::new()))),
        Some((len, inner)) => {
            (0..*len).map(|_| nested(inner, texts)).collect::<Result<_, _>>().map(Tree::Array)
        }
    }
}

/// Reads a dataset of persist's own through the library, in whatever way it keeps its data.
///
/// # Errors
/// What the library says.
pub(crate) fn read_own(dataset: &Dataset, form: &Form, size: u64) -> Result<Buffer, H5Error> {
    let len = usize::try_from(size).map_err(|_| H5Error::new("the value is too large for this machine"))?;
    if dataset.layout()? == Layout::Elsewhere {
        return Err(H5Error::new("the data lie in other files or datasets, which are not followed"));
    }
    let matches = match (form, dataset.elements()?, dataset.shape()?) {
        (Form::Json, Elements::Strings(text), Some(shape)) => shape.is_empty() && text == len,
        (Form::Bytes, Elements::Numbers(DType::U8), Some(shape)) => shape == [len],
        (Form::Array(dtype, dims), Elements::Numbers(found), Some(shape)) => {
            found == *dtype && **dims == *shape && shape.iter().product::<usize>() * dtype.size() == len
        }
        _ => false,
    };
    if !matches {
        return Err(H5Error::new("type and shape of the dataset are not those of the value"));
    }
    let mut bytes = Buffer::zeroed(size).ok_or_else(|| H5Error::new("there is no memory for the value"))?;
    dataset.read_plain(&mut bytes)?;
    Ok(bytes)
}
