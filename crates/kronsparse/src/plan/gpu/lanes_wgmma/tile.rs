//! The tile of `lanes_wgmma`: what is chosen, what follows from it, and which rules make it legal.

use super::super::{GpuProblem, Precision};
use crate::{DType, Layout};

/// How a box of `X` lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Geometry {
    /// Batch-first, all lanes: lines of 128 bytes of consecutive `(l, j)`.
    Lines,
    /// Batch-first, all lanes, whose number is no power of two: runs of consecutive `(l, j)`.
    Runs,
    /// Batch-first, some of the lanes.
    Slices,
    /// Batch-last: lines of 128 bytes of consecutive vectors.
    Batch,
}

/// How a block cuts the work. A warpgroup has 64 · `row_tiles` vectors (batch-last: 4 or 2 · 64), `group_lanes` lanes and
/// `group_outs` outputs; a block has `lane_groups · row_groups · out_groups` of them, and one that only copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Order in shared memory.
    pub geometry: Geometry,
    /// Lanes of a warpgroup.
    pub group_lanes: usize,
    /// Warpgroups that share the lanes.
    pub lane_groups: usize,
    /// Warpgroups that share the vectors.
    pub row_groups: usize,
    /// Warpgroups that share the outputs.
    pub out_groups: usize,
    /// Outputs of a warpgroup: the N of `wgmma`.
    pub group_outs: usize,
    /// Tiles of 64 vectors of a warpgroup, batch-first.
    pub row_tiles: usize,
    /// Inputs `l` of a stage.
    pub depth: usize,
    /// Stages of the ring.
    pub stages: usize,
    /// Blocks of a cluster with the same `X` and other outputs.
    pub share_x: usize,
    /// Blocks of a cluster with the same weights and other vectors.
    pub share_w: usize,
    /// Outputs that pass through shared memory at a time on their way to `Y`; 0: threads store 16 bytes each themselves.
    pub staged_outs: usize,
    /// Stages after which sums are added up outside of the tensor cores; 0: never.
    pub piece: usize,
}

impl Tile {
    /// Blocks of a cluster.
    pub fn cluster(self) -> usize {
        self.share_x * self.share_w
    }
}

/// What follows from a tile; the kernel's `Shape` computes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) lanes: usize,
    pub(super) rows: usize,
    pub(super) outs: usize,
    pub(super) groups: usize,
    pub(super) threads: usize,
    /// Products of a warpgroup: row tiles times lanes.
    pub(super) products: usize,
    /// Inputs of one `wgmma`.
    pub(super) step: usize,
    pub(super) steps: usize,
    pub(super) chunks: usize,
    /// Parts of a weight: 2 if it is split.
    pub(super) parts: usize,
    pub(super) x_bytes: usize,
    /// Bytes of one B operand.
    pub(super) w_block: usize,
    pub(super) w_bytes: usize,
    pub(super) shared: usize,
    pub(super) lane_tiles: usize,
    /// Rounded up to whole clusters.
    pub(super) out_tiles: usize,
    /// Boxes of rows in which the blocks of a cluster bring a stage of X.
    pub(super) x_parts: usize,
    /// Consecutive outputs of a thread.
    pub(super) together: usize,
    pub(super) spread_rows: bool,
    /// Registers of a consumer's thread.
    pub(super) registers: usize,
    slots: usize,
    unit: usize,
    d: usize,
    last: bool,
}

/// Registers of a producer's thread, as in the kernel.
const PRODUCER_REGISTERS: usize = 40;

impl Numbers {
    /// Errors: the rule that the tile breaks.
    pub(super) fn new(problem: &GpuProblem, tile: Tile) -> Result<Numbers, String> {
        let GpuProblem { pattern, dtype, precision, layout, .. } = *problem;
        let [_, b, c, d] = pattern.shape();
        let size = dtype.size();
        let (half, last) = (size == 2, layout == Layout::BatchLast);
        let (step, slots, unit) = if half { (16, 4, 8) } else { (8, 2, 4) };
        let split = dtype == DType::F32 && precision == Precision::Full;
        let parts = if split { 2 } else { 1 };
        let row_tiles = if last { unit / 2 } else { tile.row_tiles };
        let lanes = tile.group_lanes * tile.lane_groups;
        let groups = tile.lane_groups * tile.row_groups * tile.out_groups;
        let rows = 64 * row_tiles * tile.row_groups;
        let outs = tile.group_outs * tile.out_groups;
        let products = row_tiles * tile.group_lanes;
        let check = |holds: bool, why: &str| if holds { Ok(()) } else { Err(format!("{why}; the tile is {tile:?}")) };

        let all =
            [tile.group_lanes, tile.lane_groups, tile.row_groups, tile.out_groups, tile.group_outs, tile.row_tiles];
        check(all.iter().all(|&x| x > 0) && tile.stages >= 2, "sizes must be positive, and two stages the least")?;
        check(tile.group_outs.is_multiple_of(8) && tile.group_outs <= 256, "wgmma has 8, 16, … 256 outputs")?;
        check(tile.depth > 0 && tile.depth.is_multiple_of(step), "a stage must hold whole steps of wgmma")?;
        check(groups <= 4, "a block has at most four consumer warpgroups")?;
        check(matches!(tile.share_x, 1 | 2 | 3 | 4 | 6 | 8), "X is shared by 1, 2, 3, 4, 6 or 8 blocks")?;
        check(matches!(tile.share_w, 1 | 2 | 4 | 8) && tile.cluster() <= 8, "a cluster has at most eight blocks")?;

        let x_parts = match tile.share_x {
            3 => 4,
            6 => 8,
            other => other,
        };
        let x_bytes = rows * tile.depth * lanes * size;
        let w_block = tile.group_outs * 32;
        let steps = tile.depth / step;
        let w_bytes = lanes * steps * tile.out_groups * parts * w_block;
        check(x_bytes.is_multiple_of(1024), "a stage's X must fill whole kilobytes")?;
        check((x_bytes + w_bytes).is_multiple_of(1024), "a stage must fill whole kilobytes")?;
        check((w_bytes / tile.share_w).is_multiple_of(128), "the weights of a stage must divide among the cluster")?;

        let lane_bytes = tile.group_lanes * size;
        let together = if tile.staged_outs > 0 || last { 1 } else { unit / gcd(unit, d) };
        let spread_rows = match tile.geometry {
            Geometry::Lines => d <= unit,
            Geometry::Runs => (tile.depth * d * size).is_multiple_of(128),
            Geometry::Slices => false,
            Geometry::Batch => true,
        };
        match tile.geometry {
            Geometry::Batch => {
                check(lanes == 1 && tile.staged_outs == 0, "a batch-last block has one lane and stores directly")?;
                check(tile.depth <= 256, "a box has at most 256 inputs")?;
            }
            Geometry::Lines => {
                check(
                    d.is_power_of_two() && d <= 2 * unit && lanes == d,
                    "lines hold all of 1, 2, 4, 8 (or 16) lanes",
                )?;
                check((tile.depth * d * size).is_multiple_of(128), "a stage must hold whole lines")?;
                let whole = tile.group_lanes == d || lane_bytes.is_multiple_of(16);
                check(whole || lane_bytes == 4 || lane_bytes == 8, "a warpgroup reads 4, 8 or 16 bytes of a unit")?;
            }
            Geometry::Runs => {
                check(lanes == d && tile.lane_groups == 1, "runs hold all lanes, in each warpgroup")?;
                check(tile.depth * d <= 256, "a box has at most 256 consecutive numbers")?;
                check((slots * d * size).is_multiple_of(8), "a thread reads pieces of 8 bytes")?;
            }
            Geometry::Slices => {
                check(lane_bytes.is_multiple_of(16) && lanes <= 256, "a warpgroup reads 16 bytes of a run")?;
                check(tile.depth <= 256, "a box has at most 256 inputs")?;
                check(tile.staged_outs > 0, "slices are stored in boxes")?;
            }
        }
        if !last {
            check(
                (rows / x_parts).is_multiple_of(8) && rows / x_parts * x_parts == rows,
                "parts of X need whole eights",
            )?;
            check(rows <= 256, "a box has at most 256 vectors")?;
        }
        if tile.staged_outs > 0 {
            check(tile.staged_outs.is_multiple_of(4), "outputs are staged by fours")?;
            check(tile.group_outs.is_multiple_of(tile.staged_outs), "stages of outputs must divide a warpgroup's")?;
            check(tile.staged_outs * lanes.max(1) <= 256 || lanes != d, "a box has at most 256 consecutive numbers")?;
        } else if !last {
            check(tile.group_lanes == d, "a thread that stores has all lanes")?;
            check((tile.group_outs / 4).is_multiple_of(together), "a thread must have whole runs of 16 bytes")?;
            check(b.is_multiple_of(together), "outputs must come in whole runs of 16 bytes")?;
        }
        let sums = products * tile.group_outs / 2 * if tile.piece > 0 { 2 } else { 1 };
        let threads = 128 * (groups + 1);
        let launch = 65536 / threads / 8 * 8;
        let registers = ((launch.min(255) * threads - PRODUCER_REGISTERS * 128) / (threads - 128) / 8 * 8).min(232);
        let fragments = products * 4 * parts;
        check(sums + fragments + 24 <= registers, "sums and fragments exceed the registers")?;

        let y_buffer = rows * tile.staged_outs * lanes * size;
        let out_tiles = b.div_ceil(outs).next_multiple_of(tile.share_x);
        Ok(Numbers {
            lanes,
            rows,
            outs,
            groups,
            threads,
            products,
            step,
            steps,
            chunks: c.div_ceil(tile.depth),
            parts,
            x_bytes,
            w_block,
            w_bytes,
            shared: tile.stages * (x_bytes + w_bytes + 16) + 2 * y_buffer * tile.out_groups,
            lane_tiles: if last { d } else { d.div_ceil(lanes) },
            out_tiles,
            x_parts,
            together,
            spread_rows,
            registers,
            slots,
            unit,
            d,
            last,
        })
    }

    /// Where weight `(i, o, l, j)` (its high part) stands among the packed ones.
    pub(super) fn packed_index(&self, tile: &Tile, i: usize, o: usize, l: usize, j: usize) -> usize {
        let (lane_tile, lane) = if self.last { (j, 0) } else { (j / self.lanes, j % self.lanes) };
        let (out_tile, out) = (o / self.outs, o % self.outs);
        let (out_group, out) = (out / tile.group_outs, out % tile.group_outs);
        let (chunk, l) = (l / tile.depth, l % tile.depth);
        let (step, q, slot) = self.place_of(tile.geometry, l);
        // Term k of the step: a thread's four (two) terms are 2q, 2q + 1, 2q + 8, 2q + 9 (q, q + 4).
        let k = if self.slots == 4 { 2 * q + slot % 2 + slot / 2 * 8 } else { q + 4 * slot };
        // Column of the sums: a thread's are 8t + 2q + z, and hold `together` consecutive outputs each.
        let (team, member) = (out / self.together, out % self.together);
        let (q, m) = (team % 4, team / 4 * self.together + member);
        let column = m / 2 * 8 + 2 * q + m % 2;
        let tiles = (i * self.lane_tiles + lane_tile) * self.out_tiles + out_tile;
        let block = ((tiles * self.chunks + chunk) * self.lanes + lane) * self.steps + step;
        let block = (block * tile.out_groups + out_group) * self.parts;
        // Core matrices of 8 columns × `unit` terms: two along k, then along the columns.
        let within = ((column / 8 * 2 + k / self.unit) * 8 + column % 8) * self.unit + k % self.unit;
        block * (tile.group_outs * 2 * self.unit) + within
    }

    /// The step, the thread `q` of four and its slot that hold input `l` of a stage.
    fn place_of(&self, geometry: Geometry, l: usize) -> (usize, usize, usize) {
        let (step, within) = (l / self.step, l % self.step);
        match geometry {
            Geometry::Runs => (step, within / self.slots, within % self.slots),
            Geometry::Lines if self.d < self.unit => {
                // A unit of 16 bytes holds `per` consecutive inputs of all lanes.
                let per = self.unit / self.d;
                if per >= self.slots {
                    let (unit, within) = (l / per, l % per);
                    (unit / 4 * (per / self.slots) + within / self.slots, unit % 4, within % self.slots)
                } else {
                    let (unit, member) = (within / per, within % per);
                    (step, unit % 4, unit / 4 * per + member)
                }
            }
            _ => (step, within % 4, within / 4),
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
