//! GPU plans: which kernel family, with which template numbers, multiplies by one factor. Never touches a device.
//!
//! A family is a file with a type `Plan` (see [`plain::Plan`] for the methods) and a line in `families!` below: nothing
//! else here or in the engine names it, but for its header in the list of embedded files. [`pair_wgmma`], [`chain_wgmma`] and [`chain_mma`] multiply
//! by several factors at once ([`FusedPlan`]). What the vendor's libraries take
//! instead is estimated in [`libraries`], and both are put in order by [`ranked`](fn@ranked) for `auto`, which [`ChainPlan`]
//! is for a whole chain.

mod chain;
pub mod chain_mma;
pub mod chain_wgmma;
mod column_sum;
mod cuts;
mod fused;
mod groups;
mod kernel_plan;
pub mod lanes_mma;
pub mod lanes_wgmma;
pub mod libraries;
mod machine;
pub mod narrow;
mod packing;
pub mod pair_wgmma;
pub mod plain;
mod ranked;
mod tensor_map;
mod weight_gradient;
mod weight_parts;

use std::fmt;

pub use chain::{CALL, ChainPlan, ChainProblem, ChainStep, Part, Refusal, StepWay};
pub use chain_mma::ChainMmaPlan;
pub use chain_wgmma::ChainWgmmaPlan;
pub use column_sum::ColumnSum;
pub use cuts::{Cut, cuts};
pub use fused::FusedPlan;
pub use groups::groups;
pub use kernel_plan::KernelPlan;
pub(crate) use machine::{CACHED, KERNEL_SECONDS};
pub use machine::{Flops, GpuMachine, Rates};
pub use packing::Packing;
pub use pair_wgmma::PairPlan;
pub use ranked::{Choice, KERNELS, Ranked, WITHIN, beside, promising, promising_of, ranked, ranked_beside};
pub use tensor_map::{Operand, Swizzle, TensorMap};
pub use weight_gradient::{GradientProblem, GradientSum, GradientTile, WeightGradientPlan};
pub use weight_parts::WeightParts;

use crate::{Activation, DType, Error, Join, Layout, Pattern, Result, Scalar};

/// How `f32` is multiplied; other element types ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// With the accuracy of `f32`: on the CUDA cores, or as three TF32 products.
    #[default]
    Full,
    /// One TF32 product: inputs and weights rounded to 10 bits after the point, `f32` sums.
    Tf32,
}

/// One multiplication by one factor, without its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GpuProblem {
    /// The factor's pattern.
    pub pattern: Pattern,
    /// Element type of `X`, the weights, the bias and `Y`.
    pub dtype: DType,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Order of `X` and `Y`.
    pub layout: Layout,
    /// Number of vectors that the plan is made for. A plan is legal for any number; it is fast for this one.
    pub batch: usize,
    /// Whether `X` and `Y` start at multiples of 16 bytes. Otherwise they have the alignment of one element.
    pub aligned: bool,
    /// Whether a bias is added.
    pub bias: bool,
    /// What is applied after the bias.
    pub activation: Activation,
    /// What the activated outputs are joined with.
    pub join: Join,
}

impl GpuProblem {
    /// Aligned arrays, full precision, nothing after the product: what most problems are, but for a field or two.
    pub fn new(pattern: Pattern, dtype: DType, layout: Layout, batch: usize) -> GpuProblem {
        GpuProblem {
            pattern,
            dtype,
            precision: Precision::Full,
            layout,
            batch,
            aligned: true,
            bias: false,
            activation: Activation::None,
            join: Join::None,
        }
    }

    /// Floating-point operations: `2·n·a·b·c·d`.
    pub fn flops(&self) -> f64 {
        self.pattern.flops(self.batch)
    }
    /// Bytes that must move: `X`, the weights and a residual once in, `Y` once out.
    pub fn bytes(&self) -> f64 {
        let rows = (self.batch as f64) * (self.pattern.rows() * self.dtype.size()) as f64;
        self.pattern.bytes(self.batch, self.dtype.size()) + (self.join.moved() - 1.0) * rows
    }
}

/// Why a tile is not legal for a problem or a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The family does not multiply this element type.
    Element(DType),
    /// The GPU is older than the family's instructions.
    Capability {
        /// The first compute capability that has them.
        needs: (u32, u32),
        /// The machine's.
        has: (u32, u32),
    },
    /// The tile does not fit the shared memory of a block.
    SharedMemory {
        /// Bytes that the tile needs.
        needs: u32,
        /// Bytes that a block can have.
        has: u32,
    },
    /// `X` or `Y` is not aligned as the family needs it.
    Alignment,
    /// Another rule of the family, as a sentence with its numbers.
    Rule(String),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Element(dtype) => write!(f, "the kernel does not multiply {dtype}"),
            Rejected::Capability { needs, has } => write!(
                f,
                "the kernel needs compute capability {}.{}, the GPU has {}.{}",
                needs.0, needs.1, has.0, has.1
            ),
            Rejected::SharedMemory { needs, has } => {
                write!(f, "the tile needs {needs} bytes of shared memory, a block can have {has}")
            }
            Rejected::Alignment => write!(f, "the kernel needs X and Y at multiples of 16 bytes"),
            Rejected::Rule(why) => f.write_str(why),
        }
    }
}

/// Makes [`GpuPlan`] from the list of families: one variant each, and every question passed on.
macro_rules! families {
    ($($variant:ident $module:ident;)*) => {
        /// A legal way of multiplying by one factor. Each variant is a kernel family.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum GpuPlan {
            $(
                #[doc = concat!("The family `", stringify!($module), "`.")]
                $variant($module::Plan),
            )*
        }

        impl GpuPlan {
            /// The names of all families.
            pub const FAMILIES: &'static [&'static str] = &[$(stringify!($module)),*];

            /// The family's name: of its header, of its kernel, and for [`family`].
            pub fn name(&self) -> &'static str {
                match self { $(GpuPlan::$variant(_) => stringify!($module)),* }
            }
            /// Every plan of every family that is legal here.
            pub fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<GpuPlan> {
                let mut all = Vec::new();
                $(all.extend($module::Plan::candidates(problem, machine).into_iter().map(GpuPlan::$variant));)*
                all
            }
            /// Whether the family called `name` can have a legal tile; the error says why it has none, whatever the tile.
            pub fn fits(
                name: &str,
                problem: &GpuProblem,
                machine: &GpuMachine,
            ) -> std::result::Result<(), Rejected> {
                match name {
                    $(stringify!($module) => $module::Plan::fits(problem, machine),)*
                    _ => Err(Rejected::Rule(format!(
                        "there is no kernel family {name}; there are {:?}", GpuPlan::FAMILIES
                    ))),
                }
            }
            /// What the plan multiplies.
            pub fn problem(&self) -> &GpuProblem {
                match self { $(GpuPlan::$variant(plan) => plan.problem()),* }
            }
            /// The numbers between `<` and `>` of the kernel's template.
            pub fn arguments(&self) -> String {
                match self { $(GpuPlan::$variant(plan) => plan.arguments()),* }
            }
            /// Text before the header is included: macros that it needs, code that only the host can print.
            pub fn prelude(&self) -> String {
                match self { $(GpuPlan::$variant(plan) => plan.prelude()),* }
            }
            /// Threads of a block.
            pub fn threads(&self) -> u32 {
                match self { $(GpuPlan::$variant(plan) => plan.threads()),* }
            }
            /// Bytes of dynamic shared memory of a block.
            pub fn shared_bytes(&self) -> u32 {
                match self { $(GpuPlan::$variant(plan) => plan.shared_bytes()),* }
            }
            /// Blocks for `n` vectors; `n` is at least 1.
            pub fn grid(&self, n: usize) -> u32 {
                match self { $(GpuPlan::$variant(plan) => plan.grid(n)),* }
            }
            /// Blocks of a cluster, 1 where there are none.
            pub fn cluster(&self) -> u32 {
                match self { $(GpuPlan::$variant(plan) => plan.cluster()),* }
            }
            /// Elements of the packed weights.
            pub fn packed_len(&self) -> usize {
                match self { $(GpuPlan::$variant(plan) => plan.packed_len()),* }
            }
            /// Where weight `(i, o, l, j)` stands among the packed ones. What no weight maps to is zero.
            pub fn packed_index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
                match self { $(GpuPlan::$variant(plan) => plan.packed_index(i, o, l, j)),* }
            }
            /// Names the order of the packed weights: two plans of one pattern with one name share a packed copy.
            pub fn packing(&self) -> String {
                match self { $(GpuPlan::$variant(plan) => format!(concat!(stringify!($module), " {}"), plan.packing())),* }
            }
            /// What the packed copy holds of each weight.
            pub fn weight_parts(&self) -> WeightParts {
                match self { $(GpuPlan::$variant(plan) => plan.weight_parts()),* }
            }
            /// The tensor maps that the kernel takes after its `Args`, in order, for `n` vectors.
            pub fn tensor_maps(&self, n: usize) -> Vec<TensorMap> {
                match self { $(GpuPlan::$variant(plan) => plan.tensor_maps(n)),* }
            }
            /// Estimated seconds of one multiplication of `problem().batch` vectors.
            pub fn seconds(&self, machine: &GpuMachine) -> f64 {
                match self { $(GpuPlan::$variant(plan) => plan.seconds(machine)),* }
            }
        }

        impl fmt::Display for GpuPlan {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(GpuPlan::$variant(plan) => write!(f, concat!(stringify!($module), ": {}"), plan)),* }
            }
        }
    };
}

families! {
    Plain plain;
    LanesMma lanes_mma;
    LanesWgmma lanes_wgmma;
    Narrow narrow;
}

/// Outputs and inputs of a block that is packed lane by lane: a few lines of the caches.
const TILE: usize = 16;

impl GpuPlan {
    /// The weights of `problem().pattern`, shape `(a, b, c, d)` in C order, in the plan's order.
    pub fn pack<T: Scalar>(&self, weights: &[T]) -> Result<Vec<T>> {
        let pattern = self.problem().pattern;
        if weights.len() != pattern.nnz() {
            let (expected, found) = (pattern.nnz(), weights.len());
            return Err(Error::Length { what: "weights (a·b·c·d)", expected, found });
        }
        let parts = self.weight_parts();
        let mut packed = vec![T::ZERO; self.packed_len()];
        let [a, b, c, d] = pattern.shape();
        let PlaceTables { lanes, outputs, inputs } = self.place_tables();
        // Blocks of outputs and inputs go lane by lane, since kernels read lanes apart.
        let starts = |size: usize| (0..size).step_by(TILE);
        for i in 0..a {
            let lanes = &lanes[i * d..][..d];
            for (first_o, first_l) in starts(b).flat_map(|o| starts(c).map(move |l| (o, l))) {
                let (end_o, end_l) = ((first_o + TILE).min(b), (first_l + TILE).min(c));
                for (j, &lane) in lanes.iter().enumerate() {
                    for (o, l) in (first_o..end_o).flat_map(|o| (first_l..end_l).map(move |l| (o, l))) {
                        let (weight, at) = (weights[pattern.weight_index(i, o, l, j)], lane + outputs[o] + inputs[l]);
                        match parts {
                            WeightParts::Whole => packed[at] = weight,
                            WeightParts::Tf32 => packed[at] = T::narrow(weight_parts::tf32(weight.widen())),
                            WeightParts::HighLow { low_after } => {
                                let (high, low) = weight_parts::high_low(weight.widen());
                                packed[at] = T::narrow(high);
                                packed[at + low_after] = T::narrow(low);
                            }
                        }
                    }
                }
            }
        }
        Ok(packed)
    }
}

/// Where weights go, as sums of three terms: of the lane `i·d + j`, of the output and of the input.
struct PlaceTables {
    lanes: Vec<usize>,
    outputs: Vec<usize>,
    inputs: Vec<usize>,
}

impl GpuPlan {
    /// In every family the lane, the output and the input each add a term of their own to the place, the first ones 0.
    fn place_tables(&self) -> PlaceTables {
        let [a, b, c, d] = self.problem().pattern.shape();
        PlaceTables {
            lanes: (0..a * d).map(|lane| self.packed_index(lane / d, 0, 0, lane % d)).collect(),
            outputs: (0..b).map(|o| self.packed_index(0, o, 0, 0)).collect(),
            inputs: (0..c).map(|l| self.packed_index(0, 0, l, 0)).collect(),
        }
    }
}

/// The plan with the least estimated time.
///
/// Rejected only where the element type is complex: the family [`plain`] multiplies everything else.
pub fn choose(problem: &GpuProblem, machine: &GpuMachine) -> std::result::Result<GpuPlan, Rejected> {
    fastest(GpuPlan::candidates(problem, machine), machine).ok_or(Rejected::Element(problem.dtype))
}

/// The fastest plan of the family called `name`, by the same estimate; the error says why there is none.
pub fn family(name: &str, problem: &GpuProblem, machine: &GpuMachine) -> std::result::Result<GpuPlan, Rejected> {
    GpuPlan::fits(name, problem, machine)?;
    let mut plans = GpuPlan::candidates(problem, machine);
    plans.retain(|plan| plan.name() == name);
    fastest(plans, machine).ok_or_else(|| {
        let GpuProblem { pattern, dtype, layout, batch, .. } = problem;
        Rejected::Rule(format!("the kernel family {name} has no tile for {pattern} {dtype} {layout} n={batch}"))
    })
}

fn fastest(plans: Vec<GpuPlan>, machine: &GpuMachine) -> Option<GpuPlan> {
    plans.into_iter().min_by(|p, q| p.seconds(machine).total_cmp(&q.seconds(machine)))
}
