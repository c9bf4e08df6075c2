//! The `gemm` crate behind one checked call.

use crate::cpu::element::Compute;

/// A strided matrix inside a slice: element `(r, c)` is at `offset + r·row + c·col`.
#[derive(Clone, Copy, Debug)]
pub struct Strided {
    pub(super) offset: usize,
    pub(super) row: usize,
    pub(super) col: usize,
}

/// A matrix to read.
pub(in crate::cpu) type GemmOperand<'a, T> = (&'a [T], Strided);

impl Strided {
    fn last(self, rows: usize, cols: usize) -> usize {
        self.offset + (rows - 1) * self.row + (cols - 1) * self.col
    }
}

/// `C = one·A·B` with `A` of `m × k`, `B` of `k × n`, `C` of `m × n`; writes every element of `C`.
pub(in crate::cpu) fn gemm<T: Compute>(
    [m, n, k]: [usize; 3],
    (c, at_c): (&mut [T], Strided),
    (a, at_a): GemmOperand<'_, T>,
    (b, at_b): GemmOperand<'_, T>,
    one: T,
    threads: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0 && at_c.last(m, n) < c.len() && at_a.last(m, k) < a.len() && at_b.last(k, n) < b.len());
    let parallelism = if threads <= 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    // SAFETY: the assertion shows that all three strided matrices lie inside their slices, and `c` is borrowed mutably,
    // so it overlaps neither of the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr().add(at_c.offset),
            at_c.col as isize,
            at_c.row as isize,
            false,
            a.as_ptr().add(at_a.offset),
            at_a.col as isize,
            at_a.row as isize,
            b.as_ptr().add(at_b.offset),
            at_b.col as isize,
            at_b.row as isize,
            T::default(),
            one,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `C = A·B` of `size × size` row-major matrices: what the machine's peak is measured with.
pub(crate) fn square_product<T: Compute>(size: usize, c: &mut [T], a: &[T], b: &[T], threads: usize) {
    let row_major = Strided { offset: 0, row: size, col: 1 };
    T::gemm([size; 3], (c, row_major), (a, row_major), (b, row_major), threads);
}
