//! Arrays whose element type is known at run time, and their conversion from and to bytes.

use std::any::Any;
use std::borrow::Cow;

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use super::{Visit, elements, visit_dtype};
use crate::scalar::Wide;
use crate::{DType, Error, Matrix, Result, Scalar};

/// A vector of one of the six element types.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyVec {
    /// IEEE half precision.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// IEEE single precision.
    F32(Vec<f32>),
    /// IEEE double precision.
    F64(Vec<f64>),
    /// Complex of two `f32`.
    C64(Vec<Complex32>),
    /// Complex of two `f64`.
    C128(Vec<Complex64>),
}

/// Runs `$body` with `$v` bound to the typed content of an [`AnyVec`] or an `AnyLayer`.
macro_rules! each {
    ($kind:ident, $value:expr, $v:ident => $body:expr) => {
        match $value {
            $kind::F16($v) => $body,
            $kind::Bf16($v) => $body,
            $kind::F32($v) => $body,
            $kind::F64($v) => $body,
            $kind::C64($v) => $body,
            $kind::C128($v) => $body,
        }
    };
}
pub(super) use each;

/// Moves a value to the type that it already has, which generic code cannot see.
pub(super) fn same<A: 'static, B: 'static>(value: A) -> B {
    let boxed: Box<dyn Any> = Box::new(value);
    *boxed.downcast::<B>().unwrap_or_else(|_| panic!("{} is not {}", size_of::<A>(), std::any::type_name::<B>()))
}

impl AnyVec {
    /// From a typed vector, without a copy.
    pub fn new<T: Scalar>(data: Vec<T>) -> AnyVec {
        match T::DTYPE {
            DType::F16 => AnyVec::F16(same(data)),
            DType::Bf16 => AnyVec::Bf16(same(data)),
            DType::F32 => AnyVec::F32(same(data)),
            DType::F64 => AnyVec::F64(same(data)),
            DType::C64 => AnyVec::C64(same(data)),
            DType::C128 => AnyVec::C128(same(data)),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            AnyVec::F16(_) => DType::F16,
            AnyVec::Bf16(_) => DType::Bf16,
            AnyVec::F32(_) => DType::F32,
            AnyVec::F64(_) => DType::F64,
            AnyVec::C64(_) => DType::C64,
            AnyVec::C128(_) => DType::C128,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(AnyVec, self, v => v.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy with every element rounded to `T`. A real `T` drops imaginary parts.
    pub fn cast<T: Scalar>(&self) -> Vec<T> {
        each!(AnyVec, self, v => v.iter().map(|&x| cast(x)).collect())
    }

    /// As [`cast`](AnyVec::cast), but gives up the vector itself where it has type `T` already.
    pub fn into_vec<T: Scalar>(self) -> Vec<T> {
        if self.dtype() == T::DTYPE { each!(AnyVec, self, v => same(v)) } else { self.cast() }
    }

    /// The elements as little-endian bytes, as every file here stores them; no copy on a little-endian machine.
    pub(super) fn to_bytes(&self) -> Cow<'_, [u8]> {
        each!(AnyVec, self, v => to_bytes(v))
    }

    /// From bytes whose length is a multiple of the element size.
    pub(super) fn from_bytes(dtype: DType, bytes: &[u8], order: ByteOrder) -> AnyVec {
        struct Decode<'a>(&'a [u8], ByteOrder);
        impl Visit for Decode<'_> {
            type Output = AnyVec;
            fn visit<T: Scalar>(self) -> AnyVec {
                AnyVec::new(decode::<T>(self.0, self.1))
            }
        }
        visit_dtype(dtype, Decode(bytes, order))
    }
}

/// Rounds one number to another type; a real `T` drops the imaginary part.
pub(super) fn cast<S: Scalar, T: Scalar>(value: S) -> T {
    let (re, im) = value.widen().parts();
    T::narrow(T::Wide::from_parts(re, im))
}

/// In which order the bytes of a number stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn is_native(self) -> bool {
        (self == ByteOrder::Little) == cfg!(target_endian = "little")
    }
}

/// Reverses the bytes of every real number of `data` where `order` is not this machine's.
fn reorder<T: Scalar>(data: &mut [T], order: ByteOrder) {
    if !order.is_native() {
        let parts = if T::DTYPE.is_complex() { 2 } else { 1 };
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(data);
        bytes.chunks_exact_mut(T::DTYPE.size() / parts).for_each(<[u8]>::reverse);
    }
}

/// Typed elements from bytes of any alignment; the length is a multiple of the element size.
pub(super) fn decode<T: Scalar>(bytes: &[u8], order: ByteOrder) -> Vec<T> {
    assert_eq!(bytes.len() % size_of::<T>(), 0, "whole elements");
    let mut data = vec![T::ZERO; bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut data).copy_from_slice(bytes);
    reorder(&mut data, order);
    data
}

/// Little-endian bytes of typed elements.
pub(super) fn to_bytes<T: Scalar>(data: &[T]) -> Cow<'_, [u8]> {
    if ByteOrder::Little.is_native() {
        return Cow::Borrowed(bytemuck::cast_slice(data));
    }
    let mut swapped = data.to_vec();
    reorder(&mut swapped, ByteOrder::Little);
    Cow::Owned(bytemuck::cast_slice(&swapped).to_vec())
}

/// An array of any rank, in C order (the last index runs fastest).
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The dimensions; empty for a single number.
    pub shape: Vec<usize>,
    /// The elements; as many as the product of `shape`.
    pub data: AnyVec,
}

impl Array {
    /// Checks that `data` has as many elements as `shape` says.
    pub fn new(shape: Vec<usize>, data: AnyVec) -> Result<Array> {
        let array = Array { shape, data };
        array.check()?;
        Ok(array)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The array as a matrix with elements rounded to `T`; `what` names it in the error that another rank than 2 gives.
    pub fn into_matrix<T: Scalar>(self, what: &str) -> Result<Matrix<T>> {
        self.check()?;
        match self.shape[..] {
            [rows, cols] => Matrix::new(rows, cols, self.data.into_vec()),
            _ => Err(Error::Unsupported {
                what: format!("{what} as a matrix"),
                why: format!("expected two dimensions, found shape {:?}", self.shape),
            }),
        }
    }

    /// Both fields are public, so whoever takes an array checks it.
    pub(super) fn check(&self) -> Result<()> {
        let expected = elements(&self.shape).ok_or_else(|| Error::Unsupported {
            what: format!("an array of shape {:?}", self.shape),
            why: "its size does not fit in the address space".into(),
        })?;
        match self.data.len() {
            found if found == expected => Ok(()),
            found => Err(Error::Length { what: "array data (product of its shape)", expected, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_endian_bytes_are_swapped_part_by_part() {
        let one_minus_two = [0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0];
        assert_eq!(decode::<Complex32>(&one_minus_two, ByteOrder::Big), [Complex32::new(1.0, -2.0)]);
        assert_eq!(decode::<f32>(&one_minus_two, ByteOrder::Big), [1.0, -2.0]);
        assert_eq!(decode::<f16>(&[0xc1, 0], ByteOrder::Big), [f16::from_f32(-2.5)]);
        assert_eq!(&*to_bytes(&[1f32]), [0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn casts_round_once_and_keep_the_vector_of_the_same_type() {
        let data = AnyVec::new(vec![1.0 + 2f64.powi(-30), -0.1, f64::NAN]);
        let narrow = data.cast::<f32>();
        assert_eq!(narrow[..2], [1.0, -0.1]);
        assert!(narrow[2].is_nan());
        assert_eq!(AnyVec::new(vec![bf16::from_f32(1.5)]).into_vec::<Complex64>(), [Complex64::new(1.5, 0.0)]);
        let kept = vec![1.0f32, 2.0];
        let address = kept.as_ptr();
        let back = AnyVec::new(kept).into_vec::<f32>();
        assert_eq!(back.as_ptr(), address);
    }

    #[test]
    fn shapes_and_lengths_must_agree() {
        let message = |shape: &[usize]| Array::new(shape.into(), AnyVec::F32(vec![0.0; 6])).unwrap_err().to_string();
        assert!(message(&[2, 4]).contains("expected 8 elements, found 6"));
        assert!(message(&[1 << 40, 1 << 40]).contains("address space"));
        assert!(message(&[0, 1 << 40, 1 << 40]).contains("address space"));
        assert!(message(&[]).contains("expected 1 "));
        let array = Array::new(vec![2, 3], AnyVec::F32((0..6).map(|x| x as f32).collect())).unwrap();
        assert_eq!(array.clone().into_matrix::<f64>("x").unwrap().get(1, 0), 3.0);
        let flat = Array { shape: vec![6], ..array };
        assert!(flat.into_matrix::<f64>("x.npy").unwrap_err().to_string().contains("x.npy as a matrix"));
    }
}
