//! What is advised for: a GPU by the planner's estimates, or this machine's CPU by measured ceilings; and what a
//! multiplication costs there.

use super::calibration::Calibration;
use super::planner::{self, Planner};
use super::spread::{self, Spread};
use super::{cpu, energy};
use crate::plan::gpu::{self, ChainProblem, Choice, GpuMachine, Precision, StepWay};
use crate::{ChainPattern, DType, Error, Layout, Pattern, Result};

/// In which numbers, in which order, how many vectors at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Element type of weights, input and output; real.
    pub dtype: DType,
    /// How `f32` is multiplied on a GPU.
    pub precision: Precision,
    /// Order of input and output.
    pub layout: Layout,
    /// Number of vectors.
    pub batch: usize,
}

/// Bytes that a multiplication needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// The weights in their element type.
    pub weights: f64,
    /// Input, output, and hidden vectors where they are written to memory: the two widest sets, which take turns.
    pub activations: f64,
}

impl Memory {
    /// Both together.
    pub fn bytes(&self) -> f64 {
        self.weights + self.activations
    }
}

/// What one multiplication is estimated to cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Seconds.
    pub seconds: f64,
    /// Joules, or why there is no estimate.
    pub joules: std::result::Result<f64, String>,
    /// Bytes that are held.
    pub memory: Memory,
    /// Floating-point operations: `2·n·parameters`.
    pub flops: f64,
    /// Bytes that must move: weights, input and output once, hidden vectors not.
    pub bytes: f64,
    /// How it is multiplied, in a few words.
    pub how: String,
    /// Kernels and library algorithms that run one after the other.
    pub steps: usize,
}

/// The least time of some work at the rates of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Seconds.
    pub seconds: f64,
    /// Whether bytes take as long as operations, or longer.
    pub memory: bool,
}

impl Roof {
    /// Of floating-point operations and bytes at rates per second.
    pub fn new(flops: f64, bytes: f64, flops_per_second: f64, bytes_per_second: f64) -> Roof {
        let (arithmetic, memory) = (flops / flops_per_second, bytes / bytes_per_second);
        Roof { seconds: arithmetic.max(memory), memory: memory >= arithmetic }
    }
}

/// A GPU and what is known of its libraries.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// What the planner knows of it.
    pub machine: GpuMachine,
    /// Bytes of weights that a library's algorithm may have in the engine, or why there are no libraries.
    pub libraries: std::result::Result<usize, String>,
    /// Whether it was asked, rather than described.
    pub at_hand: bool,
}

impl Gpu {
    /// An H100 SXM with cuBLAS, which need not be at hand.
    pub fn h100() -> Gpu {
        let libraries = Ok(engine_limit());
        Gpu { name: "H100".into(), machine: GpuMachine::h100(), libraries, at_hand: false }
    }

    /// GPU `ordinal` of this machine. Errors: there is no driver, or no such GPU.
    pub fn open(ordinal: usize) -> Result<Gpu> {
        use crate::cuda::{Device, libraries};
        let device = Device::open(ordinal)?;
        let libraries = libraries::find(libraries::Library::Cublas).map(|_| engine_limit()).map_err(str::to_owned);
        Ok(Gpu { name: device.name().to_owned(), machine: device.machine().clone(), libraries, at_hand: true })
    }

    /// Bytes of weights that a library's algorithm may have for a factor, `None` without libraries.
    pub(super) fn library_bytes(&self) -> Option<usize> {
        self.libraries.as_ref().ok().copied()
    }

    pub(super) fn problem(&self, chain: &ChainPattern, case: &Case) -> ChainProblem {
        let Case { dtype, precision, layout, batch } = *case;
        ChainProblem { precision, ..ChainProblem::new(chain.clone(), dtype, layout, batch) }
    }

    fn dense(&self, whole: &ChainPattern, case: &Case) -> Result<Cost> {
        let problem = self.problem(whole, case).factor(0);
        // The engine's limit is not that of the framework which multiplies by the dense matrix now.
        let limit = self.libraries.is_ok().then_some(usize::MAX);
        let Some(best) = gpu::ranked(&problem, &self.machine, limit).into_iter().next() else {
            let what = format!("a dense product on {}", self.name);
            return Err(Error::Unsupported { what, why: format!("no kernel multiplies {}", case.dtype) });
        };
        let (seconds, watts) = (best.seconds + gpu::CALL, energy::watts(StepWay::One(&best.choice), &self.machine));
        let how = match &best.choice {
            Choice::Library(_) => "dense (cuBLAS)".into(),
            Choice::Kernel(plan) => format!("dense ({})", plan.name()),
        };
        Ok(cost(whole, case, seconds, self.joules(case, seconds, best.seconds * watts), Vec::new(), vec![how]))
    }

    pub(super) fn joules(&self, case: &Case, seconds: f64, joules: f64) -> std::result::Result<f64, String> {
        match energy::missing(&self.name, &self.machine, case.dtype, case.precision, seconds) {
            None => Ok(joules),
            Some(why) => Err(why),
        }
    }
}

/// What the engine allows a library's algorithm unless it is told otherwise.
fn engine_limit() -> usize {
    crate::cuda::Options::<f32>::default().memory_limit
}

/// Where it will be multiplied.
#[derive(Clone, Debug)]
pub enum Target {
    /// A GPU, estimated by the planner, as [`ChainPlan`](gpu::ChainPlan) has it and [`gpu::ranked`](fn@gpu::ranked).
    Gpu(Box<Gpu>),
    /// A CPU, estimated from its ceilings ([`cpu::chain_seconds`]).
    Cpu(Box<Calibration>),
}

impl Target {
    /// A name for people.
    pub fn name(&self) -> String {
        match self {
            Target::Gpu(gpu) => gpu.name.clone(),
            Target::Cpu(calibration) => {
                let machine = &calibration.machine;
                let threads =
                    if machine.threads == 1 { "1 thread".into() } else { format!("{} threads", machine.threads) };
                format!("{}, {threads}", machine.cpu)
            }
        }
    }

    /// What multiplying by a chain is estimated to cost. Errors: complex numbers.
    pub fn chain(&self, chain: &ChainPattern, case: &Case) -> Result<Cost> {
        self.check(case)?;
        match self {
            Target::Gpu(gpu) => {
                let mut costs = planner::costs(&mut [Planner::new(gpu, *case)], std::slice::from_ref(chain))?;
                Ok(costs.remove(0).remove(0))
            }
            Target::Cpu(calibration) => {
                let seconds = cpu::chain_seconds(chain, case.dtype, case.batch, calibration);
                Ok(cost(chain, case, seconds, Err(NO_ENERGY.into()), Vec::new(), vec!["fused".into()]))
            }
        }
    }

    /// What multiplying by a dense `rows × cols` matrix is estimated to cost by the best way there is: a library's, or a kernel of
    /// this project with one dense factor. Errors: complex numbers, sizes that are too large.
    pub fn dense(&self, rows: usize, cols: usize, case: &Case) -> Result<Cost> {
        self.check(case)?;
        let whole = ChainPattern::new(vec![Pattern::new(1, rows, cols, 1)?])?;
        match self {
            Target::Gpu(gpu) => gpu.dense(&whole, case),
            Target::Cpu(calibration) => {
                let by_gemm = cpu::dense_seconds(rows, cols, case.dtype, case.batch, calibration);
                // The engine multiplies by one dense factor, too.
                let fused = cpu::chain_seconds(&whole, case.dtype, case.batch, calibration);
                let how = if fused < by_gemm { "dense (fused)" } else { "dense (gemm)" };
                Ok(cost(&whole, case, fused.min(by_gemm), Err(NO_ENERGY.into()), Vec::new(), vec![how.into()]))
            }
        }
    }

    /// How far estimates of gains for this target and so many vectors were off where they were compared with measurements.
    pub fn spread(&self, batch: usize) -> Spread {
        match self {
            Target::Gpu(_) if batch < 1024 => spread::GPU_SMALL,
            Target::Gpu(_) => spread::GPU,
            Target::Cpu(_) => spread::CPU,
        }
    }

    /// Seconds at the roofline: operations and bytes of a cost at this target's ceilings.
    pub(super) fn roofline(&self, cost: &Cost, case: &Case) -> Roof {
        let (flops, bytes) = match self {
            Target::Gpu(gpu) => (gpu.machine.flops.peak(case.dtype, case.precision), gpu.machine.bytes_per_second),
            Target::Cpu(machine) => {
                let flops = if case.dtype == DType::F64 { machine.flops_f64 } else { machine.flops_f32 };
                (flops as f64, machine.memory_bytes as f64)
            }
        };
        Roof::new(cost.flops, cost.bytes, flops, bytes)
    }

    /// Errors: what is not advised on.
    pub(super) fn check(&self, case: &Case) -> Result<()> {
        let fail = |what: String, why: &str| Err(Error::Unsupported { what, why: why.into() });
        if case.dtype.is_complex() {
            return fail(
                format!("advice for {}", case.dtype),
                "it is given for f16, bf16, f32, f64, and tf32 on a GPU",
            );
        }
        if case.precision == Precision::Tf32 && matches!(self, Target::Cpu(_)) {
            return fail("tf32 on a CPU".into(), "only GPUs have such products");
        }
        Ok(())
    }
}

/// What is missing for the energy of a CPU.
pub(super) const NO_ENERGY: &str = "no power of a CPU was ever measured by this project";

/// `hidden`: numbers per vector of every set of hidden vectors that is written to memory.
pub(super) fn cost(
    chain: &ChainPattern,
    case: &Case,
    seconds: f64,
    joules: std::result::Result<f64, String>,
    hidden: Vec<usize>,
    how: Vec<String>,
) -> Cost {
    let memory = memory(chain, case, hidden);
    let (flops, bytes) = (chain.flops(case.batch), chain.bytes(case.batch, case.dtype.size()));
    Cost { seconds, joules, memory, flops, bytes, steps: how.len(), how: how.join(", then ") }
}

/// See [`cost`].
pub(super) fn memory(chain: &ChainPattern, case: &Case, mut hidden: Vec<usize>) -> Memory {
    hidden.sort_unstable();
    let held: usize = hidden.iter().rev().take(2).sum();
    let (size, batch) = (case.dtype.size() as f64, case.batch as f64);
    Memory {
        weights: size * chain.parameters() as f64,
        activations: size * batch * (chain.rows() + chain.cols() + held) as f64,
    }
}
