//! Stage 3, SOURCE: from a plan to the text that the compiler reads, and the headers that the text includes.

use crate::plan::gpu::{FusedPlan, GpuPlan, KernelPlan};

/// The kernels' files, by the names under which a source includes them.
pub const HEADERS: &[(&str, &str)] = &[
    ("args.cuh", include_str!("../../kernels/args.cuh")),
    ("batch_pointers.cuh", include_str!("../../kernels/batch_pointers.cuh")),
    ("chain_mma.cuh", include_str!("../../kernels/chain_mma.cuh")),
    ("chain_mma_tile.cuh", include_str!("../../kernels/chain_mma_tile.cuh")),
    ("chain_wgmma.cuh", include_str!("../../kernels/chain_wgmma.cuh")),
    ("chain_wgmma_tile.cuh", include_str!("../../kernels/chain_wgmma_tile.cuh")),
    ("column_sum.cuh", include_str!("../../kernels/column_sum.cuh")),
    ("epilogue.cuh", include_str!("../../kernels/epilogue.cuh")),
    ("lanes_mma.cuh", include_str!("../../kernels/lanes_mma.cuh")),
    ("lanes_mma_tile.cuh", include_str!("../../kernels/lanes_mma_tile.cuh")),
    ("lanes_mma_words.cuh", include_str!("../../kernels/lanes_mma_words.cuh")),
    ("mma_number.cuh", include_str!("../../kernels/mma_number.cuh")),
    ("narrow.cuh", include_str!("../../kernels/narrow.cuh")),
    ("pieces.cuh", include_str!("../../kernels/pieces.cuh")),
    ("lanes_wgmma.cuh", include_str!("../../kernels/lanes_wgmma.cuh")),
    ("finish.cuh", include_str!("../../kernels/finish.cuh")),
    ("gradient_sum.cuh", include_str!("../../kernels/gradient_sum.cuh")),
    ("inspect.cuh", include_str!("../../kernels/inspect.cuh")),
    ("join.cuh", include_str!("../../kernels/join.cuh")),
    ("pack_weights.cuh", include_str!("../../kernels/pack_weights.cuh")),
    ("pair_wgmma.cuh", include_str!("../../kernels/pair_wgmma.cuh")),
    ("permute.cuh", include_str!("../../kernels/permute.cuh")),
    ("plain.cuh", include_str!("../../kernels/plain.cuh")),
    ("ptx.cuh", include_str!("../../kernels/ptx.cuh")),
    ("weight_gradient.cuh", include_str!("../../kernels/weight_gradient.cuh")),
    ("wgmma_finish.cuh", include_str!("../../kernels/wgmma_finish.cuh")),
    ("wgmma_gather.cuh", include_str!("../../kernels/wgmma_gather.cuh")),
    ("wgmma_tile.cuh", include_str!("../../kernels/wgmma_tile.cuh")),
    ("types.cuh", include_str!("../../kernels/types.cuh")),
];

/// The name of the kernel in every generated source.
pub const ENTRY: &str = "kronsparse";

impl GpuPlan {
    /// [`source`](fn@source) of this plan.
    pub fn source(&self) -> String {
        source(self)
    }
}

impl FusedPlan {
    /// [`source`](fn@source) of its kernel.
    pub fn source(&self) -> String {
        source(self.kernel())
    }
}

/// One instantiation of a plan's kernel: everything that the compiler reads but the headers.
pub fn source(plan: &dyn KernelPlan) -> String {
    let family = plan.name();
    let maps = plan.tensor_maps(1).len();
    let parameters: String = (0..maps).map(|k| format!(", KS_PARAMETER ks::TensorMap map{k}")).collect();
    let passed: String = (0..maps).map(|k| format!(", &map{k}")).collect();
    format!(
        "{prelude}#include \"{family}.cuh\"\n\
         static_assert(sizeof(ks::Args) == {args} && sizeof(ks::TensorMap) == {map}, \"Rust and CUDA disagree\");\n\
         {entry} {ENTRY}(KS_PARAMETER ks::Args args{parameters}) {{\n  \
         ks::let_next_begin();\n  {wait}ks::{family}<{arguments}>(args{passed});\n}}\n",
        prelude = plan.prelude(),
        args = size_of::<super::launch::Args>(),
        map = size_of::<super::launch::EncodedMap>(),
        entry = match plan.blocks_per_multiprocessor() {
            1 => format!("KS_KERNEL({})", plan.threads()),
            blocks => format!("KS_KERNEL_BLOCKS({}, {blocks})", plan.threads()),
        },
        wait = if plan.waits() { "" } else { "ks::wait_for_previous();\n  " },
        arguments = plan.arguments(),
    )
}
