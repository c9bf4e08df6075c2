//! The fused CPU algorithm's tile: how the batch and the lanes are cut so that what a thread works on stays in its cache.

use super::Problem;
use crate::Pattern;

/// What the planner needs to know of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMachine {
    /// Bytes of a vector register.
    pub vector_bytes: usize,
    /// Bytes of cache that one core has for itself (the second level).
    pub core_cache: usize,
    /// Threads that may work at once.
    pub threads: usize,
}

/// A way of cutting one fused multiplication. The only constructor is [`Tile::new`], so a tile that exists can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Number of panels that the batch is cut into, each of at most three vectors.
    pub panels: usize,
    /// Vectors of the whole batch, the last one perhaps partial.
    pub vectors: usize,
    /// Lanes `j` of the first-applied factor that are loaded together.
    pub first_lanes: usize,
    /// Lanes `j` of the last-applied factor that are stored together.
    pub last_lanes: usize,
    /// Outputs `o` of the last-applied factor that are staged before a store; a multiple of eight, or all of them.
    pub last_outputs: usize,
    /// Whether to store past the caches: the output would only push out what is still needed.
    pub stream: bool,
}

/// Vectors of a full panel: with eight rows of weights, 24 of AVX-512's 32 registers accumulate.
const FULL_PANEL: usize = 3;

/// An output of at least this many core caches is stored past the caches.
const STREAM_FROM: usize = 8;

impl Tile {
    /// Cuts `problem` for `machine`. `real_bytes` and `planes` say how an element is held in a panel: 4 or 8 bytes, one
    /// plane or two.
    pub fn new(problem: &Problem, machine: &CpuMachine, real_bytes: usize, planes: usize) -> Tile {
        let lanes = machine.vector_bytes / real_bytes;
        let vectors = problem.batch.div_ceil(lanes);
        let patterns = problem.chain.patterns();
        let (last, first) = (patterns[0], patterns[patterns.len() - 1]);
        // A single factor is shared out by its blocks too; a longer chain only by panels, so every thread needs one.
        let wanted = if patterns.len() == 1 { 1 } else { machine.threads };
        let panels = vectors.div_ceil(FULL_PANEL).max(wanted.min(vectors));
        let widest = if panels == 0 { 0 } else { vectors.div_ceil(panels) };
        let row_bytes = widest * machine.vector_bytes * planes;
        // Staged inputs may take four fifths of the core's cache, staged outputs the rest; weights pass through.
        let rows = machine.core_cache / row_bytes.max(1);
        let (input_rows, output_rows) = ((rows * 4 / 5).max(1), (rows / 5).max(1));
        let first_lanes = lanes_together(first, first.c(), input_rows, lanes);
        // What a single factor loads together it stores together.
        let last_lanes =
            if patterns.len() == 1 { first_lanes } else { lanes_together(last, last.b().min(8), output_rows, lanes) };
        let output_bytes = problem.batch.saturating_mul(problem.chain.rows()).saturating_mul(problem.dtype.size());
        Tile {
            panels,
            vectors,
            first_lanes,
            last_lanes,
            last_outputs: (output_rows / last_lanes / 8 * 8).clamp(8, last.b().max(8)),
            stream: output_bytes >= STREAM_FROM * machine.core_cache,
        }
    }

    /// The vectors `start..end` of panel `index`; panels differ by at most one vector.
    pub fn panel(&self, index: usize) -> std::ops::Range<usize> {
        let cut = |k: usize| k * self.vectors / self.panels;
        cut(index)..cut(index + 1)
    }
}

/// How many lanes to take at once so that `rows` features per lane fit `budget` rows: all of them, or a multiple of the
/// vector, so that runs of memory stay whole cache lines; never less than one vector.
fn lanes_together(pattern: Pattern, rows: usize, budget: usize, vector: usize) -> usize {
    let fitting = budget / rows.max(1);
    if pattern.d() <= vector || fitting >= pattern.d() { pattern.d() } else { (fitting / vector * vector).max(vector) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChainPattern, DType, Layout};

    #[test]
    fn panels_cover_the_batch_once_and_are_balanced() {
        let machine = CpuMachine { vector_bytes: 64, core_cache: 1 << 20, threads: 2 };
        let chain = ChainPattern::monarch(64, 64, 8, 8).unwrap();
        for batch in [0, 1, 15, 16, 17, 100, 256, 2048] {
            let problem = Problem { chain: chain.clone(), dtype: DType::F32, batch, layout: Layout::BatchFirst };
            let tile = Tile::new(&problem, &machine, 4, 1);
            let mut covered = 0;
            for panel in 0..tile.panels {
                let range = tile.panel(panel);
                assert_eq!(range.start, covered);
                assert!((1..=FULL_PANEL).contains(&range.len()), "batch {batch}: {range:?}");
                covered = range.end;
            }
            assert_eq!(covered, batch.div_ceil(16));
        }
    }

    fn chain_b(pattern: &str) -> usize {
        pattern.parse::<Pattern>().unwrap().b()
    }

    #[test]
    fn staged_outputs_end_on_register_tiles() {
        let machine = CpuMachine { vector_bytes: 64, core_cache: 1 << 20, threads: 1 };
        for pattern in ["1,1024,1024,4", "1,7,9,100", "3,5,2000,48", "1,4096,4096,1"] {
            let chain = ChainPattern::new(vec![pattern.parse().unwrap()]).unwrap();
            let tile =
                Tile::new(&Problem { chain, dtype: DType::F32, batch: 100, layout: Layout::BatchLast }, &machine, 4, 1);
            let b = chain_b(pattern);
            assert!(tile.last_outputs % 8 == 0 || tile.last_outputs >= b, "{tile:?}");
            assert!(tile.first_lanes >= 1 && tile.last_lanes >= 1);
        }
    }
}
