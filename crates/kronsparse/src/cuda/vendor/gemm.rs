//! Runs a [`Product`] by cuBLAS or cuBLASLt, by whichever of their ways is fastest here.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::cublas::sys;
use cudarc::driver::sys::CUstream;

use super::handles::{Handles, WORKSPACE_BYTES, blas};
use super::lt::{Lt, Proposal};
use super::numbers::Numbers;
use super::small::Small;
use super::trial::{Trial, fastest};
use crate::cuda::device::Device;
use crate::cuda::memory::Buffer;
use crate::plan::product::{Array, Call, Operand, Product};
use crate::{Error, Result, Scalar};

/// Algorithms that cuBLASLt is asked for when they can be timed.
const PROPOSALS: usize = 4;

/// Threads of a block of the kernel that writes tables of pointers.
const TABLE_THREADS: usize = 128;

/// What the products of one operator share.
pub(super) struct Shared {
    pub(super) device: Device,
    pub(super) handles: Arc<Handles>,
    pub(super) numbers: Numbers,
    /// [`WORKSPACE_BYTES`], for one product at a time.
    pub(super) workspace: Buffer<u8>,
    /// Whether arrays of the caller begin at multiples of 16 bytes.
    pub(super) aligned: bool,
}

impl Shared {
    pub(super) fn new(device: &Device, numbers: Numbers, aligned: bool) -> Result<Shared> {
        let workspace = Buffer::alloc(device, WORKSPACE_BYTES)?;
        Ok(Shared { device: device.clone(), handles: Handles::of(device), numbers, workspace, aligned })
    }
}

/// A product ready to be launched: weights on the device, calls listed, the way chosen.
pub(super) struct Gemm<T> {
    shared: Arc<Shared>,
    product: Product,
    calls: Vec<Call>,
    weights: Buffer<T>,
    lt: Option<Lt>,
    table: Option<Table>,
    way: Way,
}

/// One of the ways of having the libraries compute a product.
#[derive(Clone, Copy)]
enum Way {
    /// `cublasGemmStridedBatchedEx`, call by call.
    Strided,
    /// `cublasLtMatmul` with an algorithm, call by call.
    Lt { proposal: Proposal, rank: usize },
    /// `cublasGemmBatchedEx`, after a kernel that writes the addresses of all matrices.
    Pointers,
}

/// Device memory for the addresses of all matrices, and the kernel that writes them.
struct Table {
    pointers: Buffer<u64>,
    kernel: Small,
}

/// `ks::Lattice` and `ks::PointerArgs` of `kernels/batch_pointers.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Lattice {
    base: u64,
    outer: u64,
    inner: u64,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct PointerArgs {
    matrices: [Lattice; 3],
    table: u64,
    batches: [u32; 2],
}

impl<T: Scalar> Gemm<T> {
    /// Uploads weights that are packed as the product reads them and prepares every way; with a trial the fastest is
    /// taken, without one cuBLAS's own choice.
    pub(super) fn new(
        shared: &Arc<Shared>,
        product: Product,
        weights: &[T],
        trial: Option<&Trial<'_>>,
    ) -> Result<Gemm<T>> {
        Gemm::with(shared, product, Buffer::from_slice(&shared.device, weights)?, trial)
    }

    /// [`Gemm::new`] with weights that are on the device already.
    pub(super) fn with(
        shared: &Arc<Shared>,
        product: Product,
        weights: Buffer<T>,
        trial: Option<&Trial<'_>>,
    ) -> Result<Gemm<T>> {
        let calls = product.calls(product.shorter_loop());
        let mut this =
            Gemm { shared: shared.clone(), weights, lt: None, table: None, way: Way::Strided, product, calls };
        let Some(trial) = trial else { return Ok(this) };
        let mut ways = vec![Way::Strided];
        // What cannot be prepared is one way less, not an error.
        if let Ok(proposals) = this.propose() {
            ways.extend(proposals.into_iter().enumerate().map(|(rank, proposal)| Way::Lt { proposal, rank }));
        }
        if this.calls.len() > 1 && this.make_table().is_ok() {
            ways.push(Way::Pointers);
        }
        let chosen = fastest(trial, &ways, |way| {
            this.way = *way;
            // SAFETY: the trial's arrays are as large as the product's.
            unsafe { this.launch(trial.x, trial.y, trial.stream.raw()) }
        })?;
        this.way = chosen;
        if !matches!(chosen, Way::Pointers) {
            this.table = None;
        }
        Ok(this)
    }

    fn propose(&mut self) -> Result<Vec<Proposal>> {
        let lt = Lt::new(&self.product, &self.calls[0], self.shared.numbers)?;
        let size = size_of::<T>();
        let alignment = |operand: &Operand| {
            let base = match operand.array {
                Array::Weights => 256,
                _ if self.shared.aligned => 16,
                _ => size,
            };
            self.product.alignment(operand, base, size)
        };
        let alignments = [&self.product.left, &self.product.right, &self.product.out].map(alignment);
        let proposals = lt.proposals(&self.shared.handles, PROPOSALS, alignments)?;
        self.lt = Some(lt);
        Ok(proposals)
    }

    fn make_table(&mut self) -> Result<()> {
        let [a, d] = self.product.batches;
        if a * d > 1 << 24 {
            return Err(Error::Unsupported {
                what: "a table of pointers".into(),
                why: format!("for {} products", a * d),
            });
        }
        self.table = Some(Table {
            pointers: Buffer::alloc(&self.shared.device, 3 * a * d)?,
            kernel: Small::load(&self.shared.device, &table_source(), TABLE_THREADS, 0)?,
        });
        Ok(())
    }

    /// Queues the product of the array at `x` into the one at `y`.
    ///
    /// # Safety
    ///
    /// The device's context is current, `stream` is a stream of it; both arrays are as large as the product says, aligned
    /// as was promised, and alive until the product is done. No other product of the operator runs at the same time.
    pub(super) unsafe fn launch(&self, x: u64, y: u64, stream: CUstream) -> Result<()> {
        let numbers = self.shared.numbers;
        let base = |operand: &Operand| match operand.array {
            Array::Input => x,
            Array::Weights => self.weights.pointer(),
            Array::Output => y,
        };
        let Product { m, n, k, ref left, ref right, ref out, batches } = self.product;
        let operands = [left, right, out];
        let address = |call: &Call, at: usize| base(operands[at]) + (call.offsets[at] * size_of::<T>()) as u64;
        let workspace = self.shared.workspace.pointer();
        let op = |operand: &Operand| {
            if operand.transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
        };
        let (ty, algorithm) = (numbers.blas_type(), sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT);
        let [m, n, k] = [m, n, k].map(|size| size as i64);
        let leading = operands.map(|operand| operand.leading as i64);
        match self.way {
            Way::Strided => {
                let handle = self.shared.handles.cublas(stream, workspace)?;
                for call in &self.calls {
                    let strides = call.strides.map(|stride| stride as i64);
                    // SAFETY: sizes, leading dimensions and strides are those of the product, which stay inside the arrays.
                    blas("cublasGemmStridedBatchedEx", unsafe {
                        sys::cublasGemmStridedBatchedEx_64(
                            handle.0,
                            op(left),
                            op(right),
                            m,
                            n,
                            k,
                            numbers.one(),
                            address(call, 0) as *const c_void,
                            ty,
                            leading[0],
                            strides[0],
                            address(call, 1) as *const c_void,
                            ty,
                            leading[1],
                            strides[1],
                            numbers.zero(),
                            address(call, 2) as *mut c_void,
                            ty,
                            leading[2],
                            strides[2],
                            call.batch as i64,
                            numbers.blas_compute(),
                            algorithm,
                        )
                    })?;
                }
                Ok(())
            }
            Way::Lt { ref proposal, .. } => {
                let lt = self.lt.as_ref().expect("a way of cuBLASLt has descriptors");
                for call in &self.calls {
                    let addresses = [0, 1, 2].map(|at| address(call, at));
                    // SAFETY: as above; the workspace is the operator's.
                    unsafe { lt.run(&self.shared.handles, proposal, numbers, addresses, workspace, stream)? };
                }
                Ok(())
            }
            Way::Pointers => {
                let table = self.table.as_ref().expect("the way of pointers has a table");
                let count = batches[0] * batches[1];
                let lattice = |at: usize| {
                    let [outer, inner] = operands[at].strides.map(|stride| (stride * size_of::<T>()) as u64);
                    Lattice { base: base(operands[at]), outer, inner }
                };
                let args = PointerArgs {
                    matrices: [0, 1, 2].map(lattice),
                    table: table.pointers.pointer(),
                    batches: batches.map(|batch| batch as u32),
                };
                // SAFETY: the table has room for three times `count` pointers.
                unsafe { table.kernel.run(count.div_ceil(TABLE_THREADS) as u32, &args, stream)? };
                let pointers = |at: usize| table.pointers.pointer_at(at * count);
                let handle = self.shared.handles.cublas(stream, workspace)?;
                // SAFETY: the table holds the addresses of all matrices once the kernel before it in the stream is done.
                blas("cublasGemmBatchedEx", unsafe {
                    sys::cublasGemmBatchedEx_64(
                        handle.0,
                        op(left),
                        op(right),
                        m,
                        n,
                        k,
                        numbers.one(),
                        pointers(0) as *const *const c_void,
                        ty,
                        leading[0],
                        pointers(1) as *const *const c_void,
                        ty,
                        leading[1],
                        numbers.zero(),
                        pointers(2) as *const *mut c_void,
                        ty,
                        leading[2],
                        count as i64,
                        numbers.blas_compute(),
                        algorithm,
                    )
                })
            }
        }
    }

    /// Bytes of device memory that it holds.
    pub(super) fn bytes(&self) -> usize {
        let table = self.table.as_ref().map_or(0, |table| table.pointers.len() * 8);
        self.weights.len() * size_of::<T>() + table
    }
}

/// The kernel that writes a table.
pub(super) fn table_source() -> String {
    format!(
        "#include \"batch_pointers.cuh\"\n\
         static_assert(sizeof(ks::PointerArgs) == {}, \"Rust and CUDA disagree\");\n\
         KS_KERNEL({TABLE_THREADS}) kronsparse(KS_PARAMETER ks::PointerArgs args) {{ \
         ks::batch_pointers<{TABLE_THREADS}>(args); }}\n",
        size_of::<PointerArgs>()
    )
}

impl<T> fmt::Display for Gemm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Product { m, n, k, batches: [a, d], .. } = self.product;
        let calls = self.calls.len();
        match self.way {
            Way::Strided => write!(f, "cublas strided")?,
            Way::Lt { rank, .. } => write!(f, "cublaslt #{rank}")?,
            Way::Pointers => write!(f, "cublas pointers")?,
        }
        write!(f, " {m}x{n}x{k} batch {a}x{d}")?;
        if calls > 1 && !matches!(self.way, Way::Pointers) { write!(f, " in {calls} calls") } else { Ok(()) }
    }
}
