//! The extension module `kronsparse._kronsparse`: conversion between Python and the Rust library, and nothing else. The Python
//! package around it has the classes that users see.

mod address;
mod advise;
mod algebra;
mod arrays;
mod call;
mod cuda;
mod dtype;
mod error;
mod gated;
mod learner;
mod operator;
mod pattern;
mod place;
mod pool;
mod streams;
mod tuning;
mod waiting;

use pyo3::prelude::*;

/// What `kronsparse` is made of; import that instead.
#[pymodule]
mod _kronsparse {
    #[pymodule_export]
    use super::address::{apply_at, pack_at, same_at};
    #[pymodule_export]
    use super::advise::{Advice, Candidate, Cost, Verdict, advise};
    #[pymodule_export]
    use super::algebra::{factorize, fast_transform, fuse, load, save, to_dense, tolerance};
    #[pymodule_export]
    use super::arrays::check_dtype;
    #[pymodule_export]
    use super::call::{Call, retire_calls};
    #[pymodule_export]
    use super::cuda::{CudaOperator, cuda_devices};
    #[pymodule_export]
    use super::gated::pack_gated_at;
    #[pymodule_export]
    use super::learner::CudaLearner;
    #[pymodule_export]
    use super::operator::Operator;
    #[pymodule_export]
    use super::pattern::{
        Pattern, budget_chains, butterfly, check_chain, enumerate_chains, monarch, parse_chain, ranks, square_dyadic,
    };
    #[pymodule_export]
    use super::tuning::{Tuner, TuningRecord, Way, look_in, read_tuning, tuning_path};
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
