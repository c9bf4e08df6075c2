//! The permutations before and after a library's product: which kernel of `permute.cuh`, with which tile.

use std::fmt;

use super::Layout;
use super::product::Order;
use crate::{DType, Error, Pattern, Result};

/// Threads of a block of every kernel here.
pub const THREADS: usize = 256;

/// Bytes of an array that a block turns around in shared memory, about.
const TILE_BYTES: usize = 8192;

/// Bytes of the run of memory that a tile should have on either side, at least.
const RUN_BYTES: usize = 128;

/// Swaps the two middle dimensions of `[n][a][p][q]` (batch-first) or `[a][p][q][n]` (batch-last) in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permutation {
    a: usize,
    p: usize,
    q: usize,
    vectors: usize,
    element: usize,
    kernel: Kernel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kernel {
    /// Batch-first: `permute_lanes`.
    Lanes { tile: [usize; 3], load: usize, store: usize, from: Order, to: Order },
    /// Batch-last: `permute_rows`, `vector` bytes an access.
    Rows { vector: usize },
}

impl Permutation {
    /// `X` to the array that [`Product::lanes_apart`](super::product::Product::lanes_apart) reads; `None` if that is `X`
    /// itself. `aligned` says that both arrays begin at multiples of 16 bytes.
    pub fn before(problem: &Problem) -> Result<Option<Permutation>> {
        let [a, _, c, d] = problem.pattern.shape();
        Permutation::new(problem, [a, c, d], Order::Vectors, problem.order)
    }

    /// What the product wrote, to `Y`; `None` if that is `Y` itself.
    pub fn after(problem: &Problem) -> Result<Option<Permutation>> {
        let [a, b, _, d] = problem.pattern.shape();
        Permutation::new(problem, [a, d, b], problem.order, Order::Vectors)
    }

    fn new(problem: &Problem, [a, p, q]: [usize; 3], from: Order, to: Order) -> Result<Option<Permutation>> {
        let Problem { vectors, layout, dtype, aligned, .. } = *problem;
        let element = dtype.size();
        let swaps = p > 1 && q > 1;
        let regroups = from != to && layout == Layout::BatchFirst && vectors > 1 && a * p * q > 1;
        if vectors == 0 || !(swaps || regroups) {
            return Ok(None);
        }
        let widest = |elements: usize| {
            let limit: usize = if aligned { 16 / element } else { 1 };
            1 << elements.trailing_zeros().min(limit.trailing_zeros())
        };
        let kernel = match layout {
            Layout::BatchFirst => {
                let tile = tile(element, p, q, widest(p), widest(q));
                Kernel::Lanes { tile, load: widest(q), store: widest(p), from, to }
            }
            Layout::BatchLast => Kernel::Rows { vector: element * widest(vectors) },
        };
        let permutation = Permutation { a, p, q, vectors, element, kernel };
        match permutation.blocks() {
            Some(blocks) if blocks < 1 << 31 && [a, p, q].iter().all(|&size| size < 1 << 31) => Ok(Some(permutation)),
            _ => Err(Error::Unsupported {
                what: format!("a permutation for {} with {vectors} vectors", problem.pattern),
                why: "its grid would have 2^31 blocks or more".into(),
            }),
        }
    }

    fn blocks(&self) -> Option<usize> {
        let outer = self.vectors.checked_mul(self.a)?;
        Some(match &self.kernel {
            Kernel::Lanes { tile: [o, p, q], .. } => {
                outer.div_ceil(*o).checked_mul(self.p.div_ceil(*p))?.checked_mul(self.q.div_ceil(*q))?
            }
            Kernel::Rows { vector } => {
                let units = outer.checked_mul(self.p)?.checked_mul(self.q)?.checked_mul(self.element)? / vector;
                units.div_ceil(4 * THREADS)
            }
        })
    }

    /// Number of blocks.
    pub fn grid(&self) -> u32 {
        self.blocks().and_then(|blocks| u32::try_from(blocks).ok()).expect("checked when it was made")
    }

    /// Bytes of dynamic shared memory of a block; below 48 KiB.
    pub fn shared_bytes(&self) -> usize {
        match &self.kernel {
            Kernel::Lanes { tile: [o, p, q], .. } => o * p * (q | 1) * self.element,
            Kernel::Rows { .. } => 0,
        }
    }

    /// Bytes that it reads and writes.
    pub fn bytes(&self) -> usize {
        2 * self.vectors * self.a * self.p * self.q * self.element
    }

    /// The kernel's source: an entry point `kronsparse` that takes `ks::Args` with `x`, `y` and `n`.
    pub fn source(&self) -> String {
        let Permutation { a, p, q, element, .. } = self;
        let call = match &self.kernel {
            Kernel::Lanes { tile: [to, tp, tq], load, store, from, to: target } => {
                let blocks = |order: &Order| *order == Order::Blocks;
                format!(
                    "permute_lanes<{element}, {a}, {p}, {q}, {to}, {tp}, {tq}, {load}, {store}, {}, {}, {THREADS}>",
                    blocks(from),
                    blocks(target)
                )
            }
            Kernel::Rows { vector } => format!("permute_rows<{element}, {vector}, {a}, {p}, {q}, {THREADS}>"),
        };
        format!(
            "#include \"permute.cuh\"\n\
             KS_KERNEL({THREADS}) kronsparse(KS_PARAMETER ks::Args args) {{ ks::{call}(args); }}\n"
        )
    }
}

/// What a permutation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The factor.
    pub pattern: Pattern,
    /// Number of vectors.
    pub vectors: usize,
    /// Layout of `X` and `Y`.
    pub layout: Layout,
    /// Element type.
    pub dtype: DType,
    /// Layout of the arrays between the permutations, batch-first only.
    pub order: Order,
    /// Whether all arrays begin at multiples of 16 bytes.
    pub aligned: bool,
}

/// Matrices, rows and columns of a tile: runs of [`RUN_BYTES`] on both sides where the matrix has them, [`TILE_BYTES`] in
/// all; small matrices are taken several at a time. Cuts are multiples of the vectors that are loaded and stored.
fn tile(element: usize, p: usize, q: usize, step_p: usize, step_q: usize) -> [usize; 3] {
    let (run, area) = (RUN_BYTES / element, TILE_BYTES / element);
    let cut =
        |size: usize, wanted: usize, step: usize| if wanted >= size { size } else { (wanted / step * step).max(step) };
    let mut tile_p = cut(p, run, step_p);
    let tile_q = cut(q, (area / tile_p).max(run), step_q);
    tile_p = cut(p, (area / tile_q).max(run), step_p);
    let matrices = if tile_p == p && tile_q == q { (area / (p * q)).max(1) } else { 1 };
    [matrices, tile_p, tile_q]
}

impl fmt::Display for Permutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Permutation { p, q, .. } = self;
        match &self.kernel {
            Kernel::Lanes { tile: [to, tp, tq], .. } => write!(f, "swap {p} × {q} in tiles of {to} × {tp} × {tq}"),
            Kernel::Rows { vector } => write!(f, "swap {p} × {q} rows, {vector} bytes at a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(pattern: &str, vectors: usize, layout: Layout, dtype: DType) -> Problem {
        let pattern = pattern.parse().unwrap();
        Problem { pattern, vectors, layout, dtype, order: Order::Vectors, aligned: true }
    }

    #[test]
    fn tiles_fit_shared_memory_and_are_whole_vectors() {
        let sizes = [1, 2, 3, 4, 5, 8, 15, 16, 48, 64, 96, 128, 768, 1000, 1024];
        for element in [2, 4, 8] {
            for (p, q) in sizes.iter().flat_map(|&p| sizes.map(|q| (p, q))) {
                let widest = |size: usize| 1usize << size.trailing_zeros().min((16usize / element).trailing_zeros());
                let [o, tp, tq] = tile(element, p, q, widest(p), widest(q));
                assert!(tp <= p && tq <= q && o >= 1, "{p} × {q}: {o} {tp} {tq}");
                assert!(tp % widest(p) == 0 && tq % widest(q) == 0, "{p} × {q}: {tp} {tq}");
                assert!(o * tp * (tq | 1) * element <= 48 << 10, "{p} × {q}: {o} {tp} {tq}");
                assert!(o == 1 || (tp == p && tq == q));
                assert!(tp * element >= RUN_BYTES / 2 || tp == p, "{p} × {q}: short runs of {tp}");
                assert!(tq * element >= RUN_BYTES / 2 || tq == q, "{p} × {q}: short runs of {tq}");
            }
        }
    }

    #[test]
    fn nothing_is_done_where_nothing_moves() {
        let none = problem("6,64,64,1", 100, Layout::BatchFirst, DType::F16);
        assert_eq!(Permutation::before(&none).unwrap(), None);
        assert_eq!(Permutation::after(&Problem { layout: Layout::BatchLast, ..none }).unwrap(), None);
        let blocks = Problem { order: Order::Blocks, ..none };
        assert!(Permutation::before(&blocks).unwrap().is_some());
        assert_eq!(Permutation::before(&Problem { vectors: 1, ..blocks }).unwrap(), None);
        let one_output = problem("1,1,64,8", 100, Layout::BatchFirst, DType::F16);
        assert!(Permutation::before(&one_output).unwrap().is_some());
        assert_eq!(Permutation::after(&one_output).unwrap(), None);
    }

    #[test]
    fn the_printed_kernel_names_every_number() {
        let p = Permutation::before(&problem("2,3,48,16", 100, Layout::BatchFirst, DType::F16)).unwrap().unwrap();
        assert!(
            p.source().contains("permute_lanes<2, 2, 48, 16, 5, 48, 16, 8, 8, false, false, 256>"),
            "{}",
            p.source()
        );
        assert_eq!((p.grid(), p.bytes()), (40, 4 * 100 * 2 * 48 * 16));
        let odd = Problem { aligned: false, ..problem("2,3,48,16", 100, Layout::BatchFirst, DType::F16) };
        assert!(Permutation::before(&odd).unwrap().unwrap().source().contains("48, 16, 1, 1, false"));
        let rows = Permutation::after(&problem("2,3,48,16", 100, Layout::BatchLast, DType::F32)).unwrap().unwrap();
        assert!(rows.source().contains("permute_rows<4, 16, 2, 16, 3, 256>"), "{}", rows.source());
        let rows = Permutation::after(&problem("2,3,48,16", 99, Layout::BatchLast, DType::F16)).unwrap().unwrap();
        assert!(rows.source().contains("permute_rows<2, 2, 2, 16, 3, 256>"), "{}", rows.source());
    }

    #[test]
    fn a_grid_that_no_gpu_can_launch_is_refused() {
        let huge = problem("1024,1,1024,1024", 1 << 22, Layout::BatchFirst, DType::F16);
        assert!(Permutation::before(&huge).unwrap_err().to_string().contains("2^31 blocks"));
    }
}
