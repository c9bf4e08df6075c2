//! CSR and BSR through cuSPARSE's generic product of a sparse and a dense matrix.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::cusparse::sys::{self, cusparseSpMMAlg_t as Way};
use cudarc::driver::sys::CUstream;

use super::gemm::Shared;
use super::handles::sparse as check;
use super::permute_bmm::Between;
use super::trial::{Trial, fastest};
use crate::cuda::memory::Buffer;
use crate::plan::Layout;
use crate::plan::compressed::Compressed;
use crate::plan::product::Order;
use crate::{Factor, Result, Scalar};

/// One factor as a sparse matrix; for BSR between the permutations of permute-bmm.
pub(super) struct Sparse<T> {
    shared: Arc<Shared>,
    between: Option<Between<T>>,
    matrix: Matrix,
    dense: [Dense; 2],
    /// Largest need of all ways.
    buffer: Buffer<u8>,
    way: Way,
    size: usize,
    // The matrix points into these.
    _offsets: Buffer<i32>,
    _columns: Buffer<i32>,
    values: Buffer<T>,
}

struct Matrix(sys::cusparseSpMatDescr_t);
struct Dense(sys::cusparseDnMatDescr_t);

// SAFETY: descriptors are plain data behind pointers; those that a launch changes are used under cuSPARSE's mutex.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}
// SAFETY: as above.
unsafe impl Send for Dense {}
// SAFETY: as above.
unsafe impl Sync for Dense {}

impl<T: Scalar> Sparse<T> {
    /// Compressed sparse rows of the factor itself.
    pub(super) fn csr(
        shared: &Arc<Shared>,
        factor: &Factor<T>,
        vectors: usize,
        layout: Layout,
        trial: Option<&Trial<'_>>,
    ) -> Result<Sparse<T>> {
        let matrix = Compressed::csr(factor.pattern(), factor.weights())?;
        // ALG2 is meant for row-major dense matrices, ALG1 for column-major ones.
        let ways = match layout {
            Layout::BatchFirst => [Way::CUSPARSE_SPMM_CSR_ALG1, Way::CUSPARSE_SPMM_CSR_ALG2],
            Layout::BatchLast => [Way::CUSPARSE_SPMM_CSR_ALG2, Way::CUSPARSE_SPMM_CSR_ALG1],
        };
        Sparse::new(shared, matrix, None, vectors, layout, &ways, trial)
    }

    /// Block-sparse rows, after a permutation of `X` and before one of `Y`.
    pub(super) fn bsr(
        shared: &Arc<Shared>,
        factor: &Factor<T>,
        vectors: usize,
        layout: Layout,
        trial: Option<&Trial<'_>>,
    ) -> Result<Sparse<T>> {
        let matrix = Compressed::bsr(factor.pattern(), factor.weights())?;
        let between = Between::new(shared, factor.pattern(), vectors, layout, Order::Vectors)?;
        Sparse::new(shared, matrix, Some(between), vectors, layout, &[Way::CUSPARSE_SPMM_BSR_ALG1], trial)
    }

    fn new(
        shared: &Arc<Shared>,
        compressed: Compressed<T>,
        between: Option<Between<T>>,
        vectors: usize,
        layout: Layout,
        ways: &[Way],
        trial: Option<&Trial<'_>>,
    ) -> Result<Sparse<T>> {
        let device = &shared.device;
        let Compressed { rows, cols, size, .. } = compressed;
        let offsets = Buffer::from_slice(device, &compressed.offsets)?;
        let columns = Buffer::from_slice(device, &compressed.columns)?;
        let values = Buffer::from_slice(device, &compressed.values)?;
        // Opened before the first call, so that a missing library is a sentence and no panic.
        drop(shared.handles.cusparse(std::ptr::null_mut())?);
        let blocks = columns.len() as i64;
        let [offsets_at, columns_at, values_at] =
            [offsets.pointer(), columns.pointer(), values.pointer()].map(|p| p as *mut c_void);
        let (index, zero) =
            (sys::cusparseIndexType_t::CUSPARSE_INDEX_32I, sys::cusparseIndexBase_t::CUSPARSE_INDEX_BASE_ZERO);
        let ty = shared.numbers.sparse_type();
        let (row_major, column_major) =
            (sys::cusparseOrder_t::CUSPARSE_ORDER_ROW, sys::cusparseOrder_t::CUSPARSE_ORDER_COL);
        let mut matrix = Matrix(std::ptr::null_mut());
        // SAFETY: the arrays have the sizes told and live as long as the descriptor, in the same struct.
        check("cusparseCreateCsr or cusparseCreateBsr", unsafe {
            if size == 1 {
                sys::cusparseCreateCsr(
                    &raw mut matrix.0,
                    rows as i64,
                    cols as i64,
                    blocks,
                    offsets_at,
                    columns_at,
                    values_at,
                    index,
                    index,
                    zero,
                    ty,
                )
            } else {
                sys::cusparseCreateBsr(
                    &raw mut matrix.0,
                    rows as i64,
                    cols as i64,
                    blocks,
                    size as i64,
                    size as i64,
                    offsets_at,
                    columns_at,
                    values_at,
                    index,
                    index,
                    zero,
                    ty,
                    row_major,
                )
            }
        })?;
        // Batch-last arrays are row-major features × vectors; batch-first ones are that column-major.
        let dense = |features: usize| -> Result<Dense> {
            let (leading, order) = match layout {
                Layout::BatchFirst => (features, column_major),
                Layout::BatchLast => (vectors, row_major),
            };
            let mut dense = Dense(std::ptr::null_mut());
            // SAFETY: the pointer is to a live variable. The values are set before every launch; until then any address
            // that is not null will do, and nothing is read.
            check("cusparseCreateDnMat", unsafe {
                sys::cusparseCreateDnMat(
                    &raw mut dense.0,
                    features as i64,
                    vectors as i64,
                    leading as i64,
                    values_at,
                    ty,
                    order,
                )
            })?;
            Ok(dense)
        };
        let mut this = Sparse {
            shared: shared.clone(),
            between,
            matrix,
            dense: [dense(cols * size)?, dense(rows * size)?],
            buffer: Buffer::alloc(device, 0)?,
            way: ways[0],
            size,
            _offsets: offsets,
            _columns: columns,
            values,
        };
        let needs: Vec<(Way, Result<usize>)> = ways.iter().map(|&way| (way, this.buffer_bytes(way))).collect();
        let largest = needs.iter().filter_map(|(_, need)| need.as_ref().ok()).max().copied();
        let usable: Vec<Way> = needs.iter().filter(|(_, need)| need.is_ok()).map(|(way, _)| *way).collect();
        let Some(largest) = largest else {
            return Err(needs.into_iter().find_map(|(_, need)| need.err()).expect("no need is known, so one failed"));
        };
        this.buffer = Buffer::alloc(device, largest)?;
        this.way = usable[0];
        if let Some(trial) = trial {
            let chosen = fastest(trial, &usable, |way| {
                this.way = *way;
                // SAFETY: the trial's arrays are as large as the factor's.
                unsafe { this.launch(trial.x, trial.y, trial.stream.raw()) }
            })?;
            this.way = chosen;
        }
        Ok(this)
    }

    fn buffer_bytes(&self, way: Way) -> Result<usize> {
        let numbers = self.shared.numbers;
        let handle = self.shared.handles.cusparse(std::ptr::null_mut())?;
        let none = sys::cusparseOperation_t::CUSPARSE_OPERATION_NON_TRANSPOSE;
        let mut bytes = 0;
        // SAFETY: all descriptors are alive and the pointer is to a live variable.
        check("cusparseSpMM_bufferSize", unsafe {
            sys::cusparseSpMM_bufferSize(
                handle.0,
                none,
                none,
                numbers.one(),
                self.matrix.0.cast_const(),
                self.dense[0].0.cast_const(),
                numbers.zero(),
                self.dense[1].0,
                numbers.sparse_scale(),
                way,
                &raw mut bytes,
            )
        })?;
        Ok(bytes)
    }

    /// Queues the product, with its permutations if it has any.
    ///
    /// # Safety
    ///
    /// As for [`Gemm::launch`](super::gemm::Gemm::launch).
    pub(super) unsafe fn launch(&self, x: u64, y: u64, stream: CUstream) -> Result<()> {
        let numbers = self.shared.numbers;
        let (mut source, mut target) = (x, y);
        if let Some(between) = &self.between {
            // SAFETY: the caller's word.
            unsafe { between.launch_before(x, stream)? };
            (source, target) = (between.source(x), between.target(y));
        }
        {
            let handle = self.shared.handles.cusparse(stream)?;
            let none = sys::cusparseOperation_t::CUSPARSE_OPERATION_NON_TRANSPOSE;
            // SAFETY: the descriptors are alive and nobody else changes them while the mutex is held; the arrays are the
            // caller's word.
            unsafe {
                check("cusparseDnMatSetValues", sys::cusparseDnMatSetValues(self.dense[0].0, source as *mut c_void))?;
                check("cusparseDnMatSetValues", sys::cusparseDnMatSetValues(self.dense[1].0, target as *mut c_void))?;
                check(
                    "cusparseSpMM",
                    sys::cusparseSpMM(
                        handle.0,
                        none,
                        none,
                        numbers.one(),
                        self.matrix.0.cast_const(),
                        self.dense[0].0.cast_const(),
                        numbers.zero(),
                        self.dense[1].0,
                        numbers.sparse_scale(),
                        self.way,
                        self.buffer.pointer() as *mut c_void,
                    ),
                )?;
            }
        }
        match &self.between {
            // SAFETY: the caller's word.
            Some(between) => unsafe { between.launch_after(y, stream) },
            None => Ok(()),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let between = self.between.as_ref().map_or(0, Between::bytes);
        self.values.len() * size_of::<T>()
            + (self._offsets.len() + self._columns.len()) * 4
            + self.buffer.len()
            + between
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was created and is not used again.
            unsafe { sys::cusparseDestroySpMat(self.0.cast_const()) };
        }
    }
}

impl Drop for Dense {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was created and is not used again.
            unsafe { sys::cusparseDestroyDnMat(self.0.cast_const()) };
        }
    }
}

impl<T> fmt::Display for Sparse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{:?}", self.way);
        write!(f, "cusparse {}", name.trim_start_matches("CUSPARSE_SPMM_"))?;
        match &self.between {
            Some(_) => write!(f, ", blocks of {} between permutations", self.size),
            None => Ok(()),
        }
    }
}
