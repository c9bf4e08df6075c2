//! What follows from a tile of `lanes_mma`: the numbers of `kernels/lanes_mma_tile.cuh`, which asserts that the total agrees.

use super::Tile;
use crate::{DType, Layout, Pattern};

/// The largest power of two, at most 16, that divides `bytes`.
pub(in crate::plan::gpu) fn vector_of(bytes: usize) -> usize {
    1 << bytes.trailing_zeros().min(4)
}

/// How often the banks of shared memory must be asked for one access of a warp, where thread `4g + q` takes `width` bytes
/// at `g·by_g + q·by_q`: the busiest bank, summed over the groups of threads that are served together.
fn bank_turns(width: usize, by_g: usize, by_q: usize) -> usize {
    let together = match width {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    let words = (width / 4).max(1);
    let busiest = |first: usize| {
        // At most 32 threads of one word each, or 32 words of wider threads.
        let (mut seen, mut found, mut count) = ([0; 32], 0, [0; 32]);
        for thread in first..first + together {
            for word in 0..words {
                let word = (thread / 4 * by_g + thread % 4 * by_q) / 4 + word;
                if !seen[..found].contains(&word) {
                    seen[found] = word;
                    found += 1;
                    count[word % 32] += 1;
                }
            }
        }
        count.into_iter().max().unwrap_or(0)
    };
    (0..32).step_by(together).map(busiest).sum()
}

/// Bytes from one row to the next: `raw` rounded up to 16, and as many further 16 bytes as spare the most turns.
fn row_stride(raw: usize, width: usize, by_q: usize) -> usize {
    let least = raw.next_multiple_of(16);
    (0..8).map(|pad| least + 16 * pad).min_by_key(|&stride| (bank_turns(width, stride, by_q), stride)).unwrap_or(least)
}

/// `least` doubled until that many times `bytes` are a multiple of 16, within `most`, of which it stays a divisor.
fn doublings_to_16(least: usize, most: usize, bytes: usize) -> usize {
    let mut k = least;
    while most.is_multiple_of(2 * k) && !(k * bytes).is_multiple_of(16) {
        k *= 2;
    }
    k
}

/// How rows of `X` lie in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// All lanes, as in global memory; a thread takes runs of terms × all lanes.
    Whole,
    /// All lanes, as in global memory; a warp takes some of the lanes.
    Gather,
    /// Units of 8 or 16 bytes of one term's lanes, ordered for the quads.
    Split,
    /// Batch-last: a line of vectors per lane and term.
    Last,
}

/// The derived numbers. All are positive where [`Geometry::rule`] finds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Bytes of an element.
    pub size: usize,
    /// Terms of one tensor-core step.
    pub step: usize,
    /// Terms of a step that one thread holds.
    pub own: usize,
    /// How `X` lies in shared memory.
    pub rows: Rows,
    /// Terms that a thread takes at once.
    pub terms: usize,
    /// Of which this many are neighbours in memory.
    pub paired: usize,
    /// Bytes of a shared load.
    pub unit: usize,
    /// Neighbouring outputs of a thread.
    pub run: usize,
    /// Stages that the `c` terms fill.
    pub chunks: usize,
    /// Bytes of the weights of a block's lanes and outputs, all terms.
    pub weight_bytes: usize,
    /// Tiles of lanes.
    pub lane_tiles: usize,
    /// Tiles of outputs.
    pub output_tiles: usize,
    /// Super-blocks × lane tiles × output tiles.
    pub groups: usize,
    /// Bytes of a stage of the ring.
    pub stage_bytes: usize,
    /// Bytes of shared memory.
    pub shared: usize,
    /// Sums of a thread.
    pub sums: usize,
    /// Words of `X` that a thread holds.
    pub words: usize,
}

impl Geometry {
    /// The numbers of a tile whose [`Geometry::rule`] finds nothing.
    pub fn new(pattern: Pattern, dtype: DType, layout: Layout, tile: Tile) -> Geometry {
        let [a, b, c, d] = pattern.shape();
        let size = dtype.size();
        let (step, own) = if size == 2 { (16, 4) } else { (8, 2) };
        let Tile { rows, lanes, outputs, depth, stages, row_warps, lane_warps, output_warps, resident, regroup } = tile;
        let (warp_rows, warp_lanes, warp_outputs) = (rows / row_warps, lanes / lane_warps, outputs / output_warps);
        let kind = rows_kind(d, size, layout, tile);
        let terms = if kind == Rows::Whole && d == 1 { 2 * own } else { own };
        let paired = if kind == Rows::Whole { doublings_to_16(1, terms, d * size) } else { 1 };
        let unit = match kind {
            Rows::Last => 16,
            Rows::Whole => vector_of(paired * d * size),
            Rows::Split => vector_of(warp_lanes * size),
            Rows::Gather => vector_of(d * size).min(vector_of(warp_lanes * size)),
        };
        let units = lanes * size / unit;
        let lines = if kind == Rows::Last { depth * lanes } else { rows };
        let line_bytes = match kind {
            Rows::Last => rows * size,
            Rows::Split => depth * lanes * size,
            Rows::Whole | Rows::Gather => depth * d * size,
        };
        // Neighbouring rows take turns in a 128-byte row of banks.
        let turns = 32 / unit;
        let swap_units = match kind {
            Rows::Split if turns > 0 && units.is_multiple_of(turns) => turns,
            Rows::Split if units.is_multiple_of(2) => 2,
            _ => 1,
        };
        let swapped = kind == Rows::Split && line_bytes.is_multiple_of(128) && turns / swap_units <= terms;
        let by_q = match kind {
            Rows::Whole => paired * d * size,
            Rows::Split => unit,
            Rows::Gather | Rows::Last => d * size,
        };
        let stride = if kind == Rows::Last || swapped { line_bytes } else { row_stride(line_bytes, unit, by_q) };
        let run = if kind == Rows::Whole { doublings_to_16(2, warp_outputs / 4, d * size) } else { 2 };
        let chunks = c.div_ceil(depth);
        let weight_chunk = depth * lanes * outputs * size;
        let regroup_bytes = if regroup {
            let (out_stride, outs) = ((lanes * size).next_multiple_of(16), 8 * output_warps);
            2 * rows * row_stride(outs * out_stride, unit, 2 * out_stride)
        } else {
            0
        };
        let weight_bytes = chunks * weight_chunk;
        let stage_bytes = lines * stride + if resident { 0 } else { weight_chunk };
        let (lane_tiles, output_tiles) = (d.div_ceil(lanes), b.div_ceil(outputs));
        Geometry {
            size,
            step,
            own,
            rows: kind,
            terms,
            paired,
            unit,
            run,
            chunks,
            weight_bytes,
            lane_tiles,
            output_tiles,
            groups: a * lane_tiles * output_tiles,
            stage_bytes,
            shared: stages * stage_bytes + if resident { weight_bytes } else { 0 } + regroup_bytes,
            sums: warp_lanes * warp_rows * warp_outputs / 32,
            words: warp_lanes * warp_rows / 8 * terms * size / 4,
        }
    }

    /// The rule that the tile breaks, with its numbers.
    pub fn rule(pattern: Pattern, dtype: DType, layout: Layout, tile: Tile) -> Option<String> {
        let [a, b, c, d] = pattern.shape();
        let size = dtype.size();
        let Tile { rows, lanes, outputs, depth, stages, row_warps, lane_warps, output_warps, resident: _, regroup } =
            tile;
        let all = [rows, lanes, outputs, depth, stages, row_warps, lane_warps, output_warps];
        if all.iter().any(|&number| number == 0 || number > 4096) {
            return Some(format!("the tile's numbers must be 1 to 4096, found {all:?}"));
        }
        let largest = 1 << 30;
        if [a * b, c * d * size, b * d * size].iter().any(|&x| x >= largest) {
            return Some(format!("a·b and the bytes of c·d and b·d must be below {largest} for {pattern}"));
        }
        let warps = row_warps * lane_warps * output_warps;
        if warps > 16 {
            return Some(format!("a block must have at most 16 warps, the tile has {warps}"));
        }
        let fragment = if layout == Layout::BatchLast { 128 / size } else { 16 };
        if !rows.is_multiple_of(fragment * row_warps) {
            return Some(format!("{row_warps} warps must share {rows} rows evenly, {fragment} at a time"));
        }
        if !lanes.is_multiple_of(lane_warps) || !outputs.is_multiple_of(16 * output_warps) {
            let share =
                format!("{lane_warps} × {output_warps} warps must share {lanes} lanes and {outputs} outputs evenly");
            return Some(format!("{share}, 16 outputs at a time"));
        }
        let kind = rows_kind(d, size, layout, tile);
        let group = if kind == Rows::Whole && d == 1 { 64 } else { 32 } / size;
        if !depth.is_multiple_of(group) {
            return Some(format!("a stage must hold a multiple of {group} inputs, found {depth}"));
        }
        if !(2..=8).contains(&stages) {
            return Some(format!("the ring must have 2 to 8 stages, found {stages}"));
        }
        if kind == Rows::Split && !(lanes / lane_warps * size).is_multiple_of(8) {
            return Some(format!("{lane_warps} warps' shares of {lanes} lanes must fill units of 8 bytes"));
        }
        if kind == Rows::Gather && lanes < d {
            return Some(format!("the tile must have all {d} lanes, found {lanes}"));
        }
        if regroup && kind != Rows::Split {
            return Some("only units of lanes can be regrouped before the store".into());
        }
        let geometry = Geometry::new(pattern, dtype, layout, tile);
        if geometry.weight_bytes >= largest || geometry.groups >= largest {
            return Some(format!("a tile of {lanes} lanes × {outputs} outputs has too many weights or tiles"));
        }
        None
    }

    /// The place among a group's terms that term `l` has: thread of the quad, place in the thread.
    pub fn term_place(&self, l: usize) -> (usize, usize) {
        let at = l % (4 * self.terms);
        let (block, rest) = (at / (4 * self.paired), at % (4 * self.paired));
        (rest / self.paired, block * self.paired + rest % self.paired)
    }

    /// The place of a warp's output `o`: column group, thread of the quad, column of the thread.
    pub fn output_place(&self, o: usize) -> (usize, usize, usize) {
        let (chunk, rest) = (o / (4 * self.run), o % (4 * self.run));
        let (quad, at) = (rest / self.run, rest % self.run);
        ((chunk * self.run + at) / 2, quad, at % 2)
    }
}

fn rows_kind(d: usize, size: usize, layout: Layout, tile: Tile) -> Rows {
    let warp_lanes = tile.lanes / tile.lane_warps;
    if layout == Layout::BatchLast {
        Rows::Last
    } else if warp_lanes == d && tile.lanes == d && !(d * size).is_multiple_of(16) {
        Rows::Whole
    } else if (d * size).is_multiple_of(8) || tile.lanes < d {
        Rows::Split
    } else {
        Rows::Gather
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_are_counted_as_the_hardware_does() {
        // Eight threads of 16 bytes fill all banks once: four turns for a warp, whatever the order within 128 bytes.
        assert_eq!(bank_turns(16, 64, 16), 4);
        // Rows 128 bytes apart collide in pairs.
        assert_eq!(bank_turns(16, 128, 16), 8);
        // One word for all.
        assert_eq!(bank_turns(4, 0, 0), 1);
        assert_eq!(row_stride(128, 16, 16), 192);
        // Odd numbers of 8-byte units per thread need rows that differ by 32 bytes of banks.
        assert_eq!(bank_turns(8, row_stride(3 * 128, 8, 24), 24), 2);
    }
}
