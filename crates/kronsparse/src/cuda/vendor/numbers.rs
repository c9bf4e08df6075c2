//! How an element type is called in each of the vendor's libraries, and in which type it is multiplied and summed.

use std::ffi::c_void;

use cudarc::{cublas, cublaslt, cusparse};

use crate::plan::gpu::Precision;
use crate::{DType, Error, Result};

/// A real element type with the arithmetic of its products: `f16` and `bf16` sum in f32; `f32` in true f32 unless TF32 is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    F16,
    Bf16,
    F32,
    Tf32,
    F64,
}

static F32: [f32; 2] = [0.0, 1.0];
static F64: [f64; 2] = [0.0, 1.0];

impl Numbers {
    pub(super) fn new(dtype: DType, precision: Precision) -> Result<Numbers> {
        match (dtype, precision) {
            (DType::F16, _) => Ok(Numbers::F16),
            (DType::Bf16, _) => Ok(Numbers::Bf16),
            (DType::F32, Precision::Full) => Ok(Numbers::F32),
            (DType::F32, Precision::Tf32) => Ok(Numbers::Tf32),
            (DType::F64, _) => Ok(Numbers::F64),
            (DType::C64 | DType::C128, _) => Err(Error::Unsupported {
                what: format!("element type {dtype} on a GPU"),
                why: "the CUDA engine multiplies f16, bf16, f32 and f64".into(),
            }),
        }
    }

    /// 0 in the type of the library's scalars.
    pub(super) fn zero(self) -> *const c_void {
        if self == Numbers::F64 { (&raw const F64[0]).cast() } else { (&raw const F32[0]).cast() }
    }
    /// 1 in the type of the library's scalars.
    pub(super) fn one(self) -> *const c_void {
        if self == Numbers::F64 { (&raw const F64[1]).cast() } else { (&raw const F32[1]).cast() }
    }
}

/// The same names in the bindings of each library.
macro_rules! names {
    ($sys:path, $ty:ident) => {
        impl Numbers {
            /// The library's name of the element type.
            pub(super) fn $ty(self) -> $sys {
                type T = $sys;
                match self {
                    Numbers::F16 => T::CUDA_R_16F,
                    Numbers::Bf16 => T::CUDA_R_16BF,
                    Numbers::F32 | Numbers::Tf32 => T::CUDA_R_32F,
                    Numbers::F64 => T::CUDA_R_64F,
                }
            }
        }
    };
}
macro_rules! scales {
    ($sys:path, $scale:ident) => {
        impl Numbers {
            /// The library's name of the type of sums and scalars.
            pub(super) fn $scale(self) -> $sys {
                type T = $sys;
                if self == Numbers::F64 { T::CUDA_R_64F } else { T::CUDA_R_32F }
            }
        }
    };
}
macro_rules! computes {
    ($sys:path, $compute:ident) => {
        impl Numbers {
            /// The library's name of the arithmetic.
            pub(super) fn $compute(self) -> $sys {
                type T = $sys;
                match self {
                    Numbers::F16 | Numbers::Bf16 | Numbers::F32 => T::CUBLAS_COMPUTE_32F,
                    Numbers::Tf32 => T::CUBLAS_COMPUTE_32F_FAST_TF32,
                    Numbers::F64 => T::CUBLAS_COMPUTE_64F,
                }
            }
        }
    };
}
names!(cublas::sys::cudaDataType_t, blas_type);
names!(cublaslt::sys::cudaDataType_t, lt_type);
names!(cusparse::sys::cudaDataType_t, sparse_type);
scales!(cublaslt::sys::cudaDataType_t, lt_scale);
scales!(cusparse::sys::cudaDataType_t, sparse_scale);
computes!(cublas::sys::cublasComputeType_t, blas_compute);
computes!(cublaslt::sys::cublasComputeType_t, lt_compute);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_precision_is_never_tf32_and_scalars_have_the_type_of_the_sums() {
        let full = Numbers::new(DType::F32, Precision::Full).unwrap();
        assert_eq!(full.lt_compute(), cublaslt::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F);
        let tf32 = Numbers::new(DType::F32, Precision::Tf32).unwrap();
        assert_eq!(tf32.blas_compute(), cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32);
        assert_eq!(tf32.sparse_type(), cusparse::sys::cudaDataType_t::CUDA_R_32F);
        let half = Numbers::new(DType::Bf16, Precision::Tf32).unwrap();
        assert_eq!((half.lt_type() as u32, half.lt_scale() as u32), (14, 0));
        // SAFETY: both point to static numbers of the type named.
        unsafe {
            assert_eq!((*half.one().cast::<f32>(), *half.zero().cast::<f32>()), (1.0, 0.0));
            let double = Numbers::new(DType::F64, Precision::Full).unwrap();
            assert_eq!((*double.one().cast::<f64>(), *double.zero().cast::<f64>()), (1.0, 0.0));
        }
        assert!(Numbers::new(DType::C64, Precision::Full).unwrap_err().to_string().contains("c64"));
    }
}
