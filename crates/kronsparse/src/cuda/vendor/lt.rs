//! cuBLASLt: descriptors of a batched product, and the algorithms that its heuristics propose.

use std::ffi::c_void;

use cudarc::cublas::sys::cublasOperation_t;
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as DescAttribute};
use cudarc::cublaslt::sys::{
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayoutAttribute_t as Attribute,
};
use cudarc::driver::sys::CUstream;

use super::handles::{Handles, WORKSPACE_BYTES, lt};
use super::numbers::Numbers;
use crate::Result;
use crate::plan::product::{Call, Operand, Product};

/// A product's descriptors; destroyed when dropped.
pub(super) struct Lt {
    operation: sys::cublasLtMatmulDesc_t,
    /// Of `A`, `B`, `C`.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

/// An algorithm that the heuristics propose for a product.
#[derive(Clone, Copy)]
pub(super) struct Proposal(sys::cublasLtMatmulAlgo_t);

// SAFETY: descriptors are plain data behind pointers; calls only read them.
unsafe impl Send for Lt {}
// SAFETY: as above.
unsafe impl Sync for Lt {}

impl Lt {
    /// Describes the calls of `product` with `batch` and `strides` of `call`; the offsets do not matter.
    pub(super) fn new(product: &Product, call: &Call, numbers: Numbers) -> Result<Lt> {
        let mut this = Lt { operation: std::ptr::null_mut(), layouts: [std::ptr::null_mut(); 3] };
        // SAFETY: the pointer is to a live variable.
        lt("cublasLtMatmulDescCreate", unsafe {
            sys::cublasLtMatmulDescCreate(&raw mut this.operation, numbers.lt_compute(), numbers.lt_scale())
        })?;
        let operation = |operand: &Operand| {
            if operand.transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
        };
        this.describe(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, operation(&product.left) as i32)?;
        this.describe(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, operation(&product.right) as i32)?;
        let Product { m, n, k, .. } = *product;
        let matrices = [(&product.left, m, k), (&product.right, k, n), (&product.out, m, n)];
        for (at, (operand, rows, cols)) in matrices.into_iter().enumerate() {
            // The matrix as it is stored.
            let (rows, cols) = if operand.transposed { (cols, rows) } else { (rows, cols) };
            // SAFETY: the pointer is to a live variable.
            lt("cublasLtMatrixLayoutCreate", unsafe {
                sys::cublasLtMatrixLayoutCreate(
                    &raw mut this.layouts[at],
                    numbers.lt_type(),
                    rows as u64,
                    cols as u64,
                    operand.leading as i64,
                )
            })?;
            this.lay_out(at, Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, call.batch as i32)?;
            this.lay_out(at, Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, call.strides[at] as i64)?;
        }
        Ok(this)
    }

    fn describe<V>(&self, attribute: DescAttribute, value: V) -> Result<()> {
        let pointer = (&raw const value).cast::<c_void>();
        // SAFETY: the descriptor is alive and the value has the size that is told.
        lt("cublasLtMatmulDescSetAttribute", unsafe {
            sys::cublasLtMatmulDescSetAttribute(self.operation, attribute, pointer, size_of::<V>())
        })
    }

    fn lay_out<V>(&self, at: usize, attribute: Attribute, value: V) -> Result<()> {
        let pointer = (&raw const value).cast::<c_void>();
        // SAFETY: as above.
        lt("cublasLtMatrixLayoutSetAttribute", unsafe {
            sys::cublasLtMatrixLayoutSetAttribute(self.layouts[at], attribute, pointer, size_of::<V>())
        })
    }

    /// Up to `count` algorithms, the most promising first, for operands aligned to so many bytes each.
    pub(super) fn proposals(&self, handles: &Handles, count: usize, alignments: [usize; 3]) -> Result<Vec<Proposal>> {
        let mut preference = PreferenceHandle(std::ptr::null_mut());
        // SAFETY: the pointer is to a live variable.
        lt("cublasLtMatmulPreferenceCreate", unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut preference.0) })?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE_BYTES as u64)?;
        // No reduction (0), in place (1), in the type of the sum (2); not in the output's type (4), which rounds in between.
        preference.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 3u32)?;
        let [a, b, c] = alignments.map(|bytes| bytes as u32);
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a)?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b)?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c)?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c)?;
        let empty = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut found = vec![empty; count];
        let mut returned = 0;
        let [a, b, c] = self.layouts;
        // SAFETY: all descriptors are alive, and the array has room for as many results as are asked for.
        lt("cublasLtMatmulAlgoGetHeuristic", unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handles.cublaslt()?,
                self.operation,
                a,
                b,
                c,
                c,
                preference.0,
                count as i32,
                found.as_mut_ptr(),
                &raw mut returned,
            )
        })?;
        found.truncate(usize::try_from(returned).unwrap_or(0));
        let usable = |r: &sys::cublasLtMatmulHeuristicResult_t| {
            r.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && r.workspaceSize <= WORKSPACE_BYTES
        };
        Ok(found.iter().filter(|r| usable(r)).map(|r| Proposal(r.algo)).collect())
    }

    /// Queues one call.
    ///
    /// # Safety
    ///
    /// The device's context is current; `addresses` are those of `A`, `B`, `C` as described; `workspace` has
    /// [`WORKSPACE_BYTES`]; all of it stays alive until the product is done.
    pub(super) unsafe fn run(
        &self,
        handles: &Handles,
        proposal: &Proposal,
        numbers: Numbers,
        addresses: [u64; 3],
        workspace: u64,
        stream: CUstream,
    ) -> Result<()> {
        let [a, b, c] = addresses;
        let [la, lb, lc] = self.layouts;
        // SAFETY: the descriptors are alive, the scalars are static; the rest is the caller's word.
        lt("cublasLtMatmul", unsafe {
            sys::cublasLtMatmul(
                handles.cublaslt()?,
                self.operation,
                numbers.one(),
                a as *const c_void,
                la,
                b as *const c_void,
                lb,
                numbers.zero(),
                c as *const c_void,
                lc,
                c as *mut c_void,
                lc,
                &raw const proposal.0,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        })
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: each was created by `new` or is null, and none is used again.
        unsafe {
            if !self.operation.is_null() {
                sys::cublasLtMatmulDescDestroy(self.operation);
            }
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                sys::cublasLtMatrixLayoutDestroy(layout);
            }
        }
    }
}

struct PreferenceHandle(sys::cublasLtMatmulPreference_t);

impl PreferenceHandle {
    fn set<V>(&self, attribute: Preference, value: V) -> Result<()> {
        let pointer = (&raw const value).cast::<c_void>();
        // SAFETY: the preference is alive and the value has the size that is told.
        lt("cublasLtMatmulPreferenceSetAttribute", unsafe {
            sys::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, pointer, size_of::<V>())
        })
    }
}

impl Drop for PreferenceHandle {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was created and is not used again.
            unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
        }
    }
}
