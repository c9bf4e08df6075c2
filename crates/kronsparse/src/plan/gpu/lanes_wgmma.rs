//! The family for Hopper: the copy engine, rings of stages, `wgmma`, clusters that share what they read. Its kernel is
//! `kernels/lanes_wgmma.cuh`.

use std::fmt;

use super::plain::{activation_name, can_join, join_name};
use super::{GpuMachine, GpuProblem, Operand, Precision, Rejected, Swizzle, TensorMap, WeightParts};
use crate::{DType, Join, Layout};

mod candidates;
mod cost;
mod header;
mod tile;

pub use header::{Kind, wgmma_header, wgmma_shared_header};
pub use tile::{Geometry, Tile};

use tile::Numbers;

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    problem: GpuProblem,
    tile: Tile,
    numbers: Numbers,
    /// Clusters that the machine holds at once.
    clusters: usize,
}

/// The largest coordinate and dimension of a tensor map that the kernels count with.
const LARGEST_INDEX: usize = i32::MAX as usize;

impl Plan {
    /// The only way to get a plan: f16, bf16 or f32 on compute capability 9.0, arrays that the copy engine can address
    /// (16-byte aligned, strides of multiples of 16 bytes), a tile that fits registers and shared memory.
    pub fn new(problem: &GpuProblem, tile: Tile, machine: &GpuMachine) -> Result<Plan, Rejected> {
        Self::fits(problem, machine)?;
        let GpuProblem { pattern, dtype, layout, batch, .. } = *problem;
        let rule = |why: String| Err(Rejected::Rule(why));
        let [a, b, c, d] = pattern.shape();
        let size = dtype.size();
        let strided = match (layout, tile.geometry) {
            (Layout::BatchLast, Geometry::Batch) => vec![batch],
            (Layout::BatchFirst, Geometry::Slices) => vec![d],
            (Layout::BatchFirst, Geometry::Lines | Geometry::Runs) => vec![c * d, b * d],
            (layout, geometry) => return rule(format!("the geometry {geometry:?} is not for {layout}")),
        };
        if let Some(stride) = strided.iter().find(|&&s| s * size % 16 != 0) {
            return rule(format!("the copy engine needs strides of 16 bytes, found {} bytes", stride * size));
        }
        let extents = [a * c * d, a * b * d, batch];
        if extents.iter().any(|&extent| extent > LARGEST_INDEX) {
            return rule(format!("the copy engine counts up to {LARGEST_INDEX}, found {extents:?}"));
        }
        let numbers = Numbers::new(problem, tile).map_err(Rejected::Rule)?;
        if numbers.shared > machine.shared_per_block as usize {
            let needs = u32::try_from(numbers.shared).unwrap_or(u32::MAX);
            return Err(Rejected::SharedMemory { needs, has: machine.shared_per_block });
        }
        if problem.join == Join::Gate {
            // Boxes and rows of Y have half as many numbers; runs of 16 bytes took three times as long as was estimated.
            let boxed = if numbers.lanes == d { tile.staged_outs * d } else { numbers.lanes };
            let whole = match tile.staged_outs {
                0 => true,
                _ => tile.group_lanes.is_multiple_of(2) && (boxed * size).is_multiple_of(64),
            };
            let stride = if numbers.lanes == d { b * d } else { d };
            if !whole || !(stride * size).is_multiple_of(32) {
                return rule(format!(
                    "a gate needs boxes of 32 bytes of half of the outputs of {pattern}, found {tile:?}"
                ));
            }
        }
        let clusters = clusters(tile.cluster(), machine.multiprocessors as usize);
        Ok(Plan { problem: problem.clone(), tile, numbers, clusters })
    }

    /// Whether any tile can be legal: the element type, the GPU, alignment, strides that the copy engine takes.
    pub fn fits(problem: &GpuProblem, machine: &GpuMachine) -> Result<(), Rejected> {
        let GpuProblem { pattern, dtype, layout, batch, aligned, .. } = *problem;
        if !matches!(dtype, DType::F16 | DType::Bf16 | DType::F32) {
            return Err(Rejected::Element(dtype));
        }
        // Later architectures lack wgmma: the target is sm_90a and nothing else.
        if machine.capability != (9, 0) {
            return Err(Rejected::Capability { needs: (9, 0), has: machine.capability });
        }
        let joins: &[Join] =
            if layout == Layout::BatchLast { &[Join::Residual] } else { &[Join::Residual, Join::Gate] };
        can_join(problem.join, joins)?;
        if !aligned {
            return Err(Rejected::Alignment);
        }
        // Every geometry but `Slices` strides by c·d and b·d, which are multiples of what it strides by.
        let [_, b, c, d] = pattern.shape();
        let strides = if layout == Layout::BatchLast { vec![batch] } else { vec![c * d, b * d] };
        match strides.into_iter().map(|stride| stride * dtype.size()).find(|bytes| bytes % 16 != 0) {
            Some(bytes) => {
                Err(Rejected::Rule(format!("the copy engine needs strides of 16 bytes, found {bytes} bytes")))
            }
            None => Ok(()),
        }
    }

    /// Tiles worth trying, the fastest by estimate first.
    pub fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Plan> {
        candidates::candidates(problem, machine)
    }

    /// What is multiplied.
    pub fn problem(&self) -> &GpuProblem {
        &self.problem
    }
    /// How the work is cut.
    pub fn tile(&self) -> Tile {
        self.tile
    }
    /// The template's numbers, in the order of `ks::WgmmaTile`.
    pub fn arguments(&self) -> String {
        let Plan { problem, tile, numbers, clusters: _ } = self;
        let GpuProblem { pattern, dtype: _, precision: _, layout: _, batch: _, aligned: _, bias, activation, join } =
            problem;
        let Tile {
            geometry,
            group_lanes,
            lane_groups,
            row_groups,
            out_groups,
            group_outs,
            row_tiles,
            depth,
            stages,
            share_x,
            share_w,
            staged_outs,
            piece,
        } = tile;
        let [a, b, c, d] = pattern.shape();
        let Numbers { together, spread_rows, registers, .. } = numbers;
        format!(
            "ks::WgmmaTile<ks::{}, ks::Geometry::{geometry:?}, {}, {bias}, {}, {a}, {b}, {c}, {d}, {group_lanes}, {lane_groups}, \
             {row_groups}, {out_groups}, {group_outs}, {row_tiles}, {depth}, {stages}, {share_x}, {share_w}, {staged_outs}, \
             {together}, {piece}, {spread_rows}, {registers}>",
            self.stored(),
            activation_name(*activation),
            join_name(*join),
        )
    }
    /// The instruction, which is as long as the tile is wide.
    pub fn prelude(&self) -> String {
        let kind = match self.problem.dtype {
            DType::F16 => Kind::F16,
            DType::Bf16 => Kind::Bf16,
            _ => Kind::Tf32,
        };
        format!("#define KS_WGMMA 1\n{}", wgmma_header(kind, self.tile.group_outs as u32))
    }
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.numbers.threads as u32
    }
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.numbers.shared as u32
    }
    /// As many clusters as the machine holds, or as there are tiles.
    pub fn grid(&self, n: usize) -> u32 {
        (self.cluster_tiles(n).min(self.clusters) * self.tile.cluster()) as u32
    }
    /// Blocks of a cluster.
    pub fn cluster(&self) -> u32 {
        self.tile.cluster() as u32
    }
    /// `[super-block][lane tile][output tile][chunk of l][lane][step][output group][part][core matrices of 8 outputs × 16 bytes]`.
    pub fn packed_len(&self) -> usize {
        let x = &self.numbers;
        self.problem.pattern.a() * x.lane_tiles * x.out_tiles * x.chunks * x.w_bytes / self.problem.dtype.size()
    }
    /// Where weight `(i, o, l, j)` stands; its low part, if it has one, follows at [`WeightParts::HighLow`].
    pub fn packed_index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
        self.numbers.packed_index(&self.tile, i, o, l, j)
    }
    /// The order depends on all of the tile but the ring and the clusters' rows.
    pub fn packing(&self) -> String {
        let Tile { geometry, group_lanes, lane_groups, out_groups, group_outs, depth, share_x, .. } = self.tile;
        let (parts, together) = (self.weight_parts(), self.numbers.together);
        format!(
            "{geometry:?} {group_lanes}x{lane_groups} {out_groups}x{group_outs} {depth} {share_x} {together} {parts:?} {:?}",
            self.problem.layout
        )
    }
    /// f32 weights are stored as two TF32 numbers each, or rounded to one.
    pub fn weight_parts(&self) -> WeightParts {
        match (self.problem.dtype, self.problem.precision) {
            (DType::F32, Precision::Full) => WeightParts::HighLow { low_after: self.numbers.w_block / 4 },
            (DType::F32, Precision::Tf32) => WeightParts::Tf32,
            _ => WeightParts::Whole,
        }
    }
    /// X in boxes, and Y where it is stored in boxes (otherwise a map that is not used).
    pub fn tensor_maps(&self, n: usize) -> Vec<TensorMap> {
        let [a, b, c, d] = self.problem.pattern.shape().map(|x| x as u64);
        let (size, batch) = (self.problem.dtype.size() as u64, n.max(1) as u64);
        let (tile, x) = (&self.tile, &self.numbers);
        let rows = (x.rows / x.x_parts) as u32;
        let runs =
            |features: u64| ([features * d, a, batch, 1], [features * d, a * features * d, a * features * d * batch]);
        let slices = |features: u64| ([d, features, a, batch], [d, features * d, a * features * d]);
        let (lanes, depth) = (x.lanes as u32, tile.depth as u32);
        let line = (128 / size) as u32;
        let ((dims, strides), boxed, swizzle) = match tile.geometry {
            Geometry::Lines => (runs(c), [line, 1, rows, 1], Swizzle::Bytes128),
            Geometry::Runs => (runs(c), [depth * d as u32, 1, rows, 1], Swizzle::None),
            Geometry::Slices => {
                let swizzle = match x.lanes as u64 * size {
                    64 => Swizzle::Bytes64,
                    128 => Swizzle::Bytes128,
                    _ => Swizzle::None,
                };
                (slices(c), [lanes, depth, 1, rows], swizzle)
            }
            Geometry::Batch => {
                (([batch, d, c, a], [batch, d * batch, c * d * batch]), [line, 1, depth, 1], Swizzle::Bytes128)
            }
        };
        let input = TensorMap { operand: Operand::X, dims, strides: strides.map(|s| s * size), boxed, swizzle };
        let staged = tile.staged_outs as u32;
        // A gate leaves half of the lanes.
        let of = if self.problem.join == Join::Gate { 2 } else { 1 };
        let (kept, y_lanes) = (d / of, lanes / of as u32);
        let output = match tile.staged_outs {
            0 => input.clone(),
            _ if x.lanes as u64 == d => {
                let run = b * kept;
                let (dims, strides) = ([run, a, batch, 1], [run, a * run, a * run * batch].map(|s| s * size));
                let boxed = [staged * kept as u32, 1, x.rows as u32, 1];
                TensorMap { operand: Operand::Y, dims, strides, boxed, swizzle: Swizzle::None }
            }
            _ => {
                let (dims, strides) = ([kept, b, a, batch], [kept, b * kept, a * b * kept].map(|s| s * size));
                let boxed = [y_lanes, staged, 1, x.rows as u32];
                TensorMap { operand: Operand::Y, dims, strides, boxed, swizzle: Swizzle::None }
            }
        };
        vec![input, output]
    }
    /// Estimated seconds; see `cost.rs`.
    pub fn seconds(&self, _machine: &GpuMachine) -> f64 {
        cost::seconds(self)
    }

    /// Tiles of a cluster for `n` vectors.
    fn cluster_tiles(&self, n: usize) -> usize {
        let x = &self.numbers;
        let teams = self.problem.pattern.a() * x.lane_tiles * (x.out_tiles / self.tile.share_x);
        n.div_ceil(x.rows).div_ceil(self.tile.share_w).max(1) * teams
    }

    /// The kernels' name of the element type.
    fn stored(&self) -> &'static str {
        match (self.problem.dtype, self.problem.precision) {
            (DType::F16, _) => "F16",
            (DType::Bf16, _) => "BF16",
            (_, Precision::Full) => "F32",
            (_, Precision::Tf32) => "TF32",
        }
    }
}

/// Clusters of `blocks` blocks, one per multiprocessor, that are resident at once. A cluster lives in one GPC; an H100 has
/// GPCs of 16 and 18 multiprocessors, so that clusters which do not divide those leave some idle (measured with
/// `cuOccupancyMaxActiveClusters`: 39, 30, 17 and 15 of 3, 4, 6 and 8).
pub(super) fn clusters(blocks: usize, multiprocessors: usize) -> usize {
    let usable = match blocks {
        1 | 2 => multiprocessors,
        3 => multiprocessors * 117 / 132,
        6 => multiprocessors * 102 / 132,
        _ => multiprocessors * 120 / 132,
    };
    (usable / blocks).max(1)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tile, x) = (&self.tile, &self.numbers);
        write!(
            f,
            "{} vectors × {} lanes × {} outputs a block ({} warpgroups of {} lanes × {} outputs), {} inputs a stage, {} \
             stages, {:?}, clusters of {} that share X and {} that share weights, {} threads, {} bytes of shared memory",
            x.rows,
            x.lanes,
            x.outs,
            x.groups,
            tile.group_lanes,
            tile.group_outs,
            tile.depth,
            tile.stages,
            tile.geometry,
            tile.share_x,
            tile.share_w,
            x.threads,
            x.shared
        )
    }
}
