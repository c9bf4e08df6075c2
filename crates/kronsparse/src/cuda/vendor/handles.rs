//! Handles of the vendor's libraries, one set per GPU, and what their status codes mean.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, Weak};

use cudarc::driver::sys::CUstream;
use cudarc::{cublas, cublaslt, cusparse};

use crate::cuda::device::Device;
use crate::cuda::libraries::{self, Library};
use crate::{Error, Result};

/// Bytes that a library may use while it multiplies; what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// The libraries of one GPU, opened when they are first asked for.
pub(super) struct Handles {
    device: Device,
    cublas: OnceLock<Mutex<Cublas>>,
    cublaslt: OnceLock<CublasLt>,
    cusparse: OnceLock<Mutex<Cusparse>>,
    /// Held while a library is opened.
    opening: Mutex<()>,
}

/// Keeps the vendor libraries of a GPU open. Without one they are opened and closed with each operator, which takes
/// milliseconds.
#[derive(Clone)]
pub struct Session {
    _handles: Arc<Handles>,
}

impl Session {
    /// Of this GPU. Opens nothing yet.
    pub fn new(device: &Device) -> Session {
        Session { _handles: Handles::of(device) }
    }
}

pub(super) struct Cublas(pub(super) cublas::sys::cublasHandle_t);
pub(super) struct CublasLt(pub(super) cublaslt::sys::cublasLtHandle_t);
pub(super) struct Cusparse(pub(super) cusparse::sys::cusparseHandle_t);

// SAFETY: a handle may be used from any thread, by one at a time, which the mutex sees to.
unsafe impl Send for Cublas {}
// SAFETY: cuBLASLt's handle holds no state that calls change; NVIDIA documents it as thread-safe.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}
// SAFETY: as for cuBLAS.
unsafe impl Send for Cusparse {}

impl Handles {
    /// The set of this GPU, shared by everybody who has it at the same time.
    pub(super) fn of(device: &Device) -> Arc<Handles> {
        static ALL: LazyLock<Mutex<HashMap<usize, Weak<Handles>>>> = LazyLock::new(Mutex::default);
        let mut all = ALL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(handles) = all.get(&device.ordinal()).and_then(Weak::upgrade) {
            return handles;
        }
        let handles = Arc::new(Handles {
            device: device.clone(),
            cublas: OnceLock::new(),
            cublaslt: OnceLock::new(),
            cusparse: OnceLock::new(),
            opening: Mutex::default(),
        });
        all.insert(device.ordinal(), Arc::downgrade(&handles));
        handles
    }

    /// cuBLAS, told to use `stream` and `workspace` of [`WORKSPACE_BYTES`] until the guard is dropped.
    pub(super) fn cublas(&self, stream: CUstream, workspace: u64) -> Result<MutexGuard<'_, Cublas>> {
        use cublas::sys;
        let handle = self.opened(&self.cublas, Library::Cublas, || {
            let mut handle = std::ptr::null_mut();
            // SAFETY: the context is current and the pointer is to a live variable.
            blas("cublasCreate", unsafe { sys::cublasCreate_v2(&raw mut handle) })?;
            // Sums split over blocks are added in the type of the sum, not rounded to f16 in between.
            let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            // SAFETY: the handle was just created.
            blas("cublasSetMathMode", unsafe { sys::cublasSetMathMode(handle, mode) })?;
            Ok(Mutex::new(Cublas(handle)))
        })?;
        let guard = handle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: handle and stream are alive; the workspace is the caller's, of the size that is told. Setting the stream
        // resets the workspace, so it comes second.
        unsafe {
            blas("cublasSetStream", sys::cublasSetStream_v2(guard.0, stream.cast()))?;
            blas("cublasSetWorkspace", sys::cublasSetWorkspace_v2(guard.0, workspace as *mut _, WORKSPACE_BYTES))?;
        }
        Ok(guard)
    }

    /// cuBLASLt.
    pub(super) fn cublaslt(&self) -> Result<cublaslt::sys::cublasLtHandle_t> {
        let handle = self.opened(&self.cublaslt, Library::CublasLt, || {
            let mut handle = std::ptr::null_mut();
            // SAFETY: the context is current and the pointer is to a live variable.
            lt("cublasLtCreate", unsafe { cublaslt::sys::cublasLtCreate(&raw mut handle) })?;
            Ok(CublasLt(handle))
        })?;
        Ok(handle.0)
    }

    /// cuSPARSE, told to use `stream` until the guard is dropped.
    pub(super) fn cusparse(&self, stream: CUstream) -> Result<MutexGuard<'_, Cusparse>> {
        let handle = self.opened(&self.cusparse, Library::Cusparse, || {
            let mut handle = std::ptr::null_mut();
            // SAFETY: the context is current and the pointer is to a live variable.
            sparse("cusparseCreate", unsafe { cusparse::sys::cusparseCreate(&raw mut handle) })?;
            Ok(Mutex::new(Cusparse(handle)))
        })?;
        let guard = handle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: handle and stream are alive.
        sparse("cusparseSetStream", unsafe { cusparse::sys::cusparseSetStream(guard.0, stream.cast()) })?;
        Ok(guard)
    }

    fn opened<'a, H>(
        &self,
        slot: &'a OnceLock<H>,
        library: Library,
        open: impl FnOnce() -> Result<H>,
    ) -> Result<&'a H> {
        if let Some(handle) = slot.get() {
            return Ok(handle);
        }
        libraries::require(library)?;
        let _held = self.opening.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slot.get().is_none() {
            self.device.bind()?;
            let handle = open()?;
            return Ok(slot.get_or_init(|| handle));
        }
        Ok(slot.get().expect("filled by whoever held the lock before"))
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: the handles were created above and nobody can name them any more. Errors have no remedy here.
        unsafe {
            if let Some(handle) = self.cublas.take() {
                cublas::sys::cublasDestroy_v2(handle.into_inner().unwrap_or_else(|p| p.into_inner()).0);
            }
            if let Some(handle) = self.cublaslt.take() {
                cublaslt::sys::cublasLtDestroy(handle.0);
            }
            if let Some(handle) = self.cusparse.take() {
                cusparse::sys::cusparseDestroy(handle.into_inner().unwrap_or_else(|p| p.into_inner()).0);
            }
        }
    }
}

/// cuBLAS's status as an error that names the call; what the library does not support is [`Error::Unsupported`].
pub(super) fn blas(call: &str, status: cublas::sys::cublasStatus_t) -> Result<()> {
    use cublas::sys::cublasStatus_t as Status;
    match status {
        Status::CUBLAS_STATUS_SUCCESS => Ok(()),
        Status::CUBLAS_STATUS_NOT_SUPPORTED => Err(unsupported(call, &format!("{status:?}"))),
        other => Err(Error::Cuda { what: call.into(), why: format!("{other:?}") }),
    }
}

/// [`blas`] for cuBLASLt.
pub(super) fn lt(call: &str, status: cublaslt::sys::cublasStatus_t) -> Result<()> {
    use cublaslt::sys::cublasStatus_t as Status;
    match status {
        Status::CUBLAS_STATUS_SUCCESS => Ok(()),
        Status::CUBLAS_STATUS_NOT_SUPPORTED => Err(unsupported(call, &format!("{status:?}"))),
        other => Err(Error::Cuda { what: call.into(), why: format!("{other:?}") }),
    }
}

/// [`blas`] for cuSPARSE.
pub(super) fn sparse(call: &str, status: cusparse::sys::cusparseStatus_t) -> Result<()> {
    use cusparse::sys::cusparseStatus_t as Status;
    match status {
        Status::CUSPARSE_STATUS_SUCCESS => Ok(()),
        Status::CUSPARSE_STATUS_NOT_SUPPORTED | Status::CUSPARSE_STATUS_ARCH_MISMATCH => {
            Err(unsupported(call, &format!("{status:?}")))
        }
        other => Err(Error::Cuda { what: call.into(), why: format!("{other:?}") }),
    }
}

fn unsupported(call: &str, status: &str) -> Error {
    Error::Unsupported { what: call.into(), why: format!("the library answers {status}") }
}
