//! Tiles of `chain_mma` that are worth a thought.

use super::tile::{FactorCut, Tile};
use crate::Pattern;
use crate::pattern::divisors;

/// Bytes of a chunk's rows in X or Y: what is brought or stored together.
const CHUNK_BYTES: [usize; 3] = [256, 512, 1024];

/// Over vectors, warps and chunks; the rest follows.
pub(super) fn tiles(patterns: &[Pattern], element: usize) -> Vec<Tile> {
    let mut all = Vec::new();
    // Vectors, warps that share them, warps that share the columns.
    let shapes = [
        (16, 1, 4),
        (16, 1, 8),
        (16, 1, 16),
        (32, 1, 4),
        (32, 1, 8),
        (32, 1, 16),
        (32, 2, 4),
        (48, 1, 8),
        (48, 3, 4),
        (64, 1, 4),
        (64, 1, 8),
        (64, 2, 4),
        (64, 2, 8),
        (64, 4, 2),
        (96, 2, 4),
        (96, 3, 4),
        (128, 2, 4),
        (128, 2, 8),
        (128, 4, 2),
        (128, 4, 4),
        (192, 3, 4),
        (192, 4, 4),
        (256, 4, 4),
    ];
    for (rows, row_warps, column_warps) in shapes {
        for most in [8, 4, 2, 1] {
            for bytes in CHUNK_BYTES {
                for blocks in [1, 2, 3, 4] {
                    let cuts = cuts(patterns, element, most, column_warps, bytes);
                    let tile = Tile { rows, row_warps, column_warps, blocks, cuts };
                    if !all.contains(&tile) {
                        all.push(tile);
                    }
                }
            }
        }
    }
    all
}

/// The tile that fits in the least shared memory.
pub(super) fn smallest(patterns: &[Pattern], element: usize) -> Tile {
    Tile { rows: 16, row_warps: 1, column_warps: 4, blocks: 1, cuts: cuts(patterns, element, 1, 1, 1) }
}

/// At most `most` eights of outputs at a time, fewer where a factor has fewer or not every warp would have work.
fn cuts(patterns: &[Pattern], element: usize, most: usize, warps: usize, bytes: usize) -> Vec<FactorCut> {
    let count = patterns.len();
    let cut = |(k, pattern): (usize, &Pattern)| {
        let [a, b, c, d] = pattern.shape();
        let eights = b.div_ceil(8);
        let mut columns = most.min(eights.next_power_of_two());
        while columns > 1 && a * d * eights.div_ceil(columns) < warps {
            columns /= 2;
        }
        let tiles = eights.div_ceil(columns);
        // The least divisor from which on a chunk has enough bytes and work for all warps.
        let least = |of: usize, bytes_each: usize, jobs_each: usize| {
            divisors(of).into_iter().find(|x| x * bytes_each >= bytes && x * jobs_each >= warps).unwrap_or(of)
        };
        let (chunk_blocks, chunk_tiles) = if k == 0 {
            (least(a, c * d * element, d * tiles), tiles)
        } else if k + 1 == count {
            let whole = b * d * element >= bytes && d * tiles >= warps;
            if whole {
                (1, least(tiles, 8 * columns * d * element, d))
            } else {
                (least(a, b * d * element, d * tiles), tiles)
            }
        } else {
            (a, tiles)
        };
        FactorCut { columns, chunk_blocks, chunk_tiles }
    };
    patterns.iter().enumerate().map(cut).collect()
}
