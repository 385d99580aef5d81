use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use ndarray::{ArrayD, ArrayViewD, CowArray, Dimension, IxDyn};
use num_complex::Complex;

use crate::npy::NpyHeader;
use crate::{ErrorKind, NpyError, Result, StorageError};

// Buffers are little-endian in memory and on disk, so that neither storing nor reading copies them.
#[cfg(target_endian = "big")]
compile_error!("persist keeps arrays little-endian in memory; big-endian machines are not supported");

/// The most axes of an array; HDF5 has the same limit.
pub const MAX_RANK: usize = 32;

macro_rules! dtypes {
    ($($variant:ident $name:literal $npy:literal $size:literal $type:ty, $doc:literal;)*) => {
        /// What the elements of an array are; all of them little-endian.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DType {
            $(#[doc = $doc] $variant,)*
        }

        impl DType {
            /// All of them.
            pub const ALL: [Self; 13] = [$(Self::$variant),*];

            /// The name used in documents and output, as numpy has it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bytes of one element.
            pub fn size(self) -> usize {
                match self { $(Self::$variant => $size,)* }
            }

            /// The type string of an `.npy` header.
            pub fn npy(self) -> &'static str {
                match self { $(Self::$variant => $npy,)* }
            }
        }

        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const DTYPE: DType = DType::$variant;
            }
        )*
    };
}

mod sealed {
    pub trait Sealed {}
}

/// The Rust types that elements of an array have: `bool`, the integers of 8 to 64 bits, `f32`, `f64` and their
/// complex numbers.
pub trait Element:
    sealed::Sealed + bytemuck::NoUninit + bytemuck::CheckedBitPattern + PartialEq + fmt::Debug + Send + Sync
{
    /// The dtype of this type.
    const DTYPE: DType;
}

dtypes! {
    Bool "bool" "|b1" 1 bool, "One byte, 0 or 1.";
    I8 "int8" "|i1" 1 i8, "Signed, 8 bits.";
    I16 "int16" "<i2" 2 i16, "Signed, 16 bits.";
    I32 "int32" "<i4" 4 i32, "Signed, 32 bits.";
    I64 "int64" "<i8" 8 i64, "Signed, 64 bits.";
    U8 "uint8" "|u1" 1 u8, "Unsigned, 8 bits.";
    U16 "uint16" "<u2" 2 u16, "Unsigned, 16 bits.";
    U32 "uint32" "<u4" 4 u32, "Unsigned, 32 bits.";
    U64 "uint64" "<u8" 8 u64, "Unsigned, 64 bits.";
    F32 "float32" "<f4" 4 f32, "IEEE 754 single precision.";
    F64 "float64" "<f8" 8 f64, "IEEE 754 double precision.";
    Complex64 "complex64" "<c8" 8 Complex<f32>, "Two `f32`: real and imaginary part.";
    Complex128 "complex128" "<c16" 16 Complex<f64>, "Two `f64`: real and imaginary part.";
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DType {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|dtype| dtype.as_str()).collect();
            invalid(format!("{} is no dtype; use one of {}", crate::escape(text), known.join(", ")))
        })
    }
}

fn invalid(message: String) -> StorageError {
    StorageError::new(ErrorKind::InvalidValue, message)
}

/// An n-dimensional array: dtype, shape and a row-major little-endian buffer.
///
/// Rank 0 (one element) and empty axes (no element) are arrays like any other. NaN and infinities are data. Cloning
/// is cheap, the buffer is shared; a `Vec` or an owned `ndarray` in standard layout becomes one without a copy.
///
/// ```
/// use ndarray::array;
/// use persist_core::Array;
///
/// let stored = Array::from_ndarray(array![[1.0, 2.0], [3.0, f64::NAN]]);
/// assert_eq!(stored.shape(), [2, 2]);
/// assert_eq!(stored.view::<f64>()?[[1, 0]], 3.0);
/// # Ok::<(), persist_core::StorageError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

impl Array {
    /// Puts the parts together.
    ///
    /// # Errors
    /// `InvalidValue` if the buffer is not as long as shape and dtype say, the rank is over [`MAX_RANK`], the shape
    /// overflows, or a `bool` is neither 0 nor 1.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self> {
        let expected = byte_len(dtype, &shape)?;
        if data.len() != expected {
            return Err(invalid(format!(
                "{dtype} of shape {shape:?} takes {expected} bytes, and there are {}",
                data.len()
            )));
        }
        if dtype == DType::Bool && data.iter().any(|byte| *byte > 1) {
            return Err(invalid("a bool is one byte, 0 or 1, and there is another".to_owned()));
        }
        Ok(Self { dtype, shape, data })
    }

    /// Takes a vector in row-major order, without copying it.
    ///
    /// # Errors
    /// `InvalidValue` if it has not as many elements as the shape says.
    pub fn from_vec<T: Element>(shape: Vec<usize>, elements: Vec<T>) -> Result<Self> {
        struct Owner<T>(Vec<T>);
        impl<T: Element> AsRef<[u8]> for Owner<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Self::new(T::DTYPE, shape, Bytes::from_owner(Owner(elements)))
    }

    /// Takes an array of any rank; without copying it if it is in standard layout (contiguous and row-major).
    ///
    /// # Panics
    /// Never: `ndarray` checks what is checked here, but for the rank, which the type bounds to 6 or `IxDyn`.
    pub fn from_ndarray<T: Element, D: Dimension>(array: ndarray::Array<T, D>) -> Self {
        let shape = array.shape().to_vec();
        let elements = if array.is_standard_layout() {
            let (mut elements, offset) = array.into_raw_vec_and_offset();
            let (start, len) = (offset.unwrap_or(0), shape.iter().product::<usize>());
            elements.truncate(start + len);
            elements.drain(..start);
            elements
        } else {
            array.iter().copied().collect()
        };
        Self::from_vec(shape, elements).unwrap_or_else(|error| unreachable!("{error}"))
    }

    /// What the elements are.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The length of each axis; empty for rank 0.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements there are: 1 for rank 0, 0 if an axis is empty.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements, row-major and little-endian.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The elements as an `ndarray` view: without a copy where the buffer is aligned for `T`, with one elsewhere.
    ///
    /// # Errors
    /// `InvalidValue` if the dtype is not that of `T`.
    pub fn view<T: Element>(&self) -> Result<CowArray<'_, T, IxDyn>> {
        let shape = IxDyn(&self.shape);
        let misfit = |error: ndarray::ShapeError| invalid(format!("shape {:?}: {error}", self.shape));
        if T::DTYPE != self.dtype {
            return Err(invalid(format!(
                "the array holds {}, not {}; read it as what it is",
                self.dtype,
                T::DTYPE
            )));
        }
        match bytemuck::checked::try_cast_slice::<u8, T>(&self.data) {
            Ok(elements) => Ok(ArrayViewD::from_shape(shape, elements).map_err(misfit)?.into()),
            Err(_) => {
                let elements = self.data.chunks_exact(self.dtype.size());
                let elements =
                    elements.map(bytemuck::checked::try_pod_read_unaligned).collect::<Result<_, _>>();
                let elements = elements.map_err(|error| invalid(format!("damaged elements: {error}")))?;
                Ok(ArrayD::from_shape_vec(shape, elements).map_err(misfit)?.into())
            }
        }
    }

    /// The elements as an owned `ndarray`.
    ///
    /// # Errors
    /// `InvalidValue` if the dtype is not that of `T`.
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>> {
        self.view().map(CowArray::into_owned)
    }

    /// The header of the `.npy` form of this array; its elements follow as they are.
    pub fn npy_header(&self) -> NpyHeader {
        NpyHeader { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// The `.npy` form, which `numpy.load` reads. Copies the elements once.
    pub fn to_npy(&self) -> Bytes {
        let mut npy = self.npy_header().encode();
        npy.extend_from_slice(&self.data);
        npy.into()
    }

    /// Reads the `.npy` form; the elements stay where they are.
    ///
    /// # Errors
    /// What is wrong with it, or what this reader does not take (Fortran order, big-endian, structures).
    pub fn from_npy(npy: &Bytes) -> Result<Self, NpyError> {
        let (header, at) = NpyHeader::decode(npy)?;
        Self::new(header.dtype, header.shape, npy.slice(at..)).map_err(|error| NpyError(error.to_string()))
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} {:?})", self.dtype, self.shape)
    }
}

/// Checked arithmetic: shapes come from files.
fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize> {
    if shape.len() > MAX_RANK {
        return Err(invalid(format!(
            "an array has at most {MAX_RANK} axes, and this one has {}",
            shape.len()
        )));
    }
    // ndarray wants the product of the axes that are not empty to fit, even if one is empty.
    let extent =
        shape.iter().filter(|axis| **axis > 0).try_fold(dtype.size(), |len, axis| len.checked_mul(*axis));
    match extent.filter(|len| isize::try_from(*len).is_ok()) {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(len) => Ok(len),
        None => Err(invalid(format!("an array of shape {shape:?} is larger than memory can be"))),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, arr0, array, s};

    use super::*;

    #[test]
    fn a_vector_is_not_copied_on_its_way_in_or_out() {
        let elements = vec![1.5_f64, 2.5, 3.5, 4.5];
        let address = elements.as_ptr().addr();
        let array = Array::from_vec(vec![2, 2], elements).unwrap();
        assert_eq!(array.data().as_ptr().addr(), address);
        let view = array.view::<f64>().unwrap();
        assert!(view.is_view() && view.as_ptr().addr() == address);
        let matrix = Array2::from_elem((3, 4), 7_u16);
        let address = matrix.as_ptr().addr();
        assert_eq!(Array::from_ndarray(matrix).data().as_ptr().addr(), address);
    }

    #[test]
    fn every_layout_becomes_row_major() {
        let matrix = array![[1, 2, 3], [4, 5, 6]];
        let back = |array: Array2<i32>| Array::from_ndarray(array).to_ndarray::<i32>().unwrap();
        assert_eq!(back(matrix.clone()), matrix.clone().into_dyn());
        assert_eq!(back(matrix.clone().reversed_axes()), matrix.t().to_owned().into_dyn());
        let part = matrix.clone().slice_move(s![1.., 1..]);
        assert_eq!(back(part), array![[5, 6]].into_dyn());
        let backwards = matrix.slice_move(s![..;-1, ..]);
        assert_eq!(back(backwards), array![[4, 5, 6], [1, 2, 3]].into_dyn());
    }

    #[test]
    fn rank_zero_and_empty_axes() {
        let scalar = Array::from_ndarray(arr0(Complex::new(1.0_f64, -2.0)));
        assert_eq!((scalar.shape(), scalar.len(), scalar.data().len()), (&[][..], 1, 16));
        assert_eq!(scalar.to_ndarray::<Complex<f64>>().unwrap()[[]], Complex::new(1.0, -2.0));
        let empty = Array::from_vec::<u8>(vec![3, 0, 2], vec![]).unwrap();
        assert_eq!(empty.to_ndarray::<u8>().unwrap().shape(), [3, 0, 2]);
        assert!(Array::new(DType::F64, vec![usize::MAX, 0, 2], Bytes::new()).is_err());
        assert!(Array::new(DType::F64, vec![1; 33], Bytes::from_static(&[0; 8])).is_err());
        assert!(Array::new(DType::F64, vec![2], Bytes::from_static(&[0; 15])).is_err());
        assert!(Array::new(DType::Bool, vec![2], Bytes::from_static(&[1, 2])).is_err());
    }

    #[test]
    fn an_unaligned_buffer_is_copied_and_right() {
        let mut raw = vec![0_u8];
        raw.extend([1.25_f64, f64::INFINITY].iter().flat_map(|x| x.to_le_bytes()));
        let odd = Bytes::from(raw).slice(1..);
        let array = Array::new(DType::F64, vec![2], odd).unwrap();
        assert_eq!(array.view::<f64>().unwrap(), array![1.25, f64::INFINITY].into_dyn());
        assert!(array.view::<i64>().unwrap_err().to_string().contains("holds float64, not int64"));
    }

    #[test]
    fn npy_round_trip_of_every_dtype() {
        for dtype in DType::ALL {
            for shape in [vec![], vec![0], vec![3], vec![2, 0, 4], vec![2, 3, 1, 2]] {
                let len = shape.iter().product::<usize>() * dtype.size();
                let data: Bytes = (0..len).map(|i| u8::from(i % 3 == 0)).collect();
                let array = Array::new(dtype, shape, data).unwrap();
                assert_eq!(Array::from_npy(&array.to_npy()).unwrap(), array);
            }
            assert_eq!(dtype.as_str().parse::<DType>().unwrap(), dtype);
        }
    }
}
