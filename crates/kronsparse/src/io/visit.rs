//! From an element type known at run time to generic code.

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use crate::{DType, Scalar};

/// Generic code that [`visit_dtype`] calls with the type that a [`DType`] names.
///
/// ```
/// use kronsparse::{DType, Scalar, io};
/// struct Size;
/// impl io::Visit for Size {
///     type Output = usize;
///     fn visit<T: Scalar>(self) -> usize {
///         size_of::<T>()
///     }
/// }
/// assert_eq!(io::visit_dtype(DType::C64, Size), 8);
/// ```
pub trait Visit {
    /// What the code returns.
    type Output;
    /// The code.
    fn visit<T: Scalar>(self) -> Self::Output;
}

/// Calls `visitor` with the type that `dtype` names.
pub fn visit_dtype<V: Visit>(dtype: DType, visitor: V) -> V::Output {
    match dtype {
        DType::F16 => visitor.visit::<f16>(),
        DType::Bf16 => visitor.visit::<bf16>(),
        DType::F32 => visitor.visit::<f32>(),
        DType::F64 => visitor.visit::<f64>(),
        DType::C64 => visitor.visit::<Complex32>(),
        DType::C128 => visitor.visit::<Complex64>(),
    }
}
