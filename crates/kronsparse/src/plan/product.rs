//! A Kronecker-sparse product as batched dense products, the way a BLAS describes them: sizes, leading dimensions, strides.
//!
//! Everything here is column-major, as BLAS is: element `(row, column)` of a matrix lies at `row + column · leading`. A
//! [`Product`] holds no pointer and touches no device; launch code only translates it, and tests execute it with loops.

use rayon::prelude::*;

use super::Layout;
use crate::{Error, Pattern, Result};

/// Which array a matrix of a [`Product`] lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Array {
    /// `X`, or what a permutation made of it.
    Input,
    /// The weights `w[i][j][o][l]`: `a·d` row-major `b × c` matrices. See [`Product::pack`].
    Weights,
    /// `Y`, or what will be permuted into it.
    Output,
}

/// A batch of matrices in one array: matrix `(i, j)` of the batch begins at `i · strides[0] + j · strides[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// The array.
    pub array: Array,
    /// Whether the product takes the transpose of what is stored.
    pub transposed: bool,
    /// Elements from one stored column to the next.
    pub leading: usize,
    /// Elements from one matrix of the batch to the next, along either direction of the batch.
    pub strides: [usize; 2],
}

/// `C(i,j) = op(A(i,j)) · op(B(i,j))` for a two-dimensional batch; `C` is `m × n`, the inner dimension is `k`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of `C`.
    pub m: usize,
    /// Columns of `C`.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// `A`.
    pub left: Operand,
    /// `B`.
    pub right: Operand,
    /// `C`; never transposed.
    pub out: Operand,
    /// Products along either direction of the batch; `a` and `d` of the pattern.
    pub batches: [usize; 2],
}

/// One call of a strided-batched product: a one-dimensional batch that begins somewhere in the arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Where the first matrices of `A`, `B`, `C` begin, in elements.
    pub offsets: [usize; 3],
    /// Elements from one matrix of `A`, `B`, `C` to the next.
    pub strides: [usize; 3],
    /// Number of products.
    pub batch: usize,
}

impl Product {
    /// Multiplies by one factor without moving anything: `d · n`, or `a · c` and `a · b`, as leading dimension *is* the
    /// permutation. Batch-last with any pattern, batch-first with `d = 1`; [`Error::Unsupported`] otherwise.
    pub fn strided(pattern: Pattern, vectors: usize, layout: Layout) -> Result<Product> {
        let [a, b, c, d] = pattern.shape();
        let weights =
            |transposed| Operand { array: Array::Weights, transposed, leading: c, strides: [d * b * c, b * c] };
        match layout {
            // Y(i,j)ᵀ = X(i,j)ᵀ · W(i,j)ᵀ, where X(i,j)ᵀ is vectors × c with d·vectors from one column to the next.
            Layout::BatchLast => {
                let side = |array, features: usize| Operand {
                    array,
                    transposed: false,
                    leading: d * vectors,
                    strides: [features * d * vectors, vectors],
                };
                Ok(Product {
                    m: vectors,
                    n: b,
                    k: c,
                    left: side(Array::Input, c),
                    right: weights(false),
                    out: side(Array::Output, b),
                    batches: [a, d],
                })
            }
            // Y(i)ᵀ = W(i) · X(i)ᵀ, where X(i)ᵀ is c × vectors with a·c from one column to the next.
            Layout::BatchFirst if d == 1 => {
                let side = |array, features: usize| Operand {
                    array,
                    transposed: false,
                    leading: a * features,
                    strides: [features, 0],
                };
                Ok(Product {
                    m: b,
                    n: vectors,
                    k: c,
                    left: weights(true),
                    right: side(Array::Input, c),
                    out: side(Array::Output, b),
                    batches: [a, 1],
                })
            }
            Layout::BatchFirst => Err(Error::Unsupported {
                what: format!("algorithm strided for {pattern} in layout {layout}"),
                why: format!("neither dimension of its products is contiguous where d > 1, and d is {d}"),
            }),
        }
    }

    /// Multiplies by a dense matrix of `rows` × `cols`, stored row-major.
    pub fn dense(rows: usize, cols: usize, vectors: usize, layout: Layout) -> Result<Product> {
        Product::strided(Pattern::new(1, rows, cols, 1)?, vectors, layout)
    }

    /// The product between the two permutations of permute-bmm: lanes lie apart, so that the pattern is `(a·d, b, c, 1)`.
    pub fn lanes_apart(pattern: Pattern, vectors: usize, layout: Layout, order: Order) -> Result<Product> {
        let [a, b, c, d] = pattern.shape();
        let mut product = Product::strided(Pattern::new(a * d, b, c, 1)?, vectors, layout)?;
        if layout == Layout::BatchFirst && order == Order::Blocks {
            let (input, output) = (&mut product.right, &mut product.out);
            (input.leading, input.strides[0]) = (c, vectors * c);
            (output.leading, output.strides[0]) = (b, vectors * b);
        }
        Ok(product)
    }

    /// Weights `[a][b][c][d]` reordered to the `[a][d][b][c]` that products read.
    pub fn pack<T: Copy + Send + Sync>(pattern: Pattern, weights: &[T]) -> Vec<T> {
        let [_, b, c, d] = pattern.shape();
        let mut packed = weights.to_vec();
        if d == 1 {
            return packed;
        }
        packed.par_chunks_exact_mut(b * c).enumerate().for_each(|(block, packed)| {
            let (i, j) = (block / d, block % d);
            // In the order of C, weight (o, l) of lane j is every d-th one.
            let lane = weights[i * b * c * d + j..].iter().step_by(d);
            packed.iter_mut().zip(lane).for_each(|(to, &from)| *to = from);
        });
        packed
    }

    /// The calls that compute everything if one loops over direction `looped` (0 or 1) of the batch. One call if that
    /// direction has one product only.
    pub fn calls(&self, looped: usize) -> Vec<Call> {
        let within = 1 - looped;
        let operands = [self.left, self.right, self.out];
        (0..self.batches[looped])
            .map(|at| Call {
                offsets: operands.map(|operand| at * operand.strides[looped]),
                strides: operands.map(|operand| operand.strides[within]),
                batch: self.batches[within],
            })
            .collect()
    }

    /// The direction of the batch over which a loop needs fewer calls.
    pub fn shorter_loop(&self) -> usize {
        usize::from(self.batches[1] < self.batches[0])
    }

    /// The largest power of two that divides every address of an operand in bytes, if its array begins at a multiple of
    /// `base` bytes and an element has `size` bytes: what a library may assume for vector loads.
    pub fn alignment(&self, operand: &Operand, base: usize, size: usize) -> usize {
        let steps = [(operand.strides[0], self.batches[0]), (operand.strides[1], self.batches[1])];
        let steps = steps.iter().filter(|step| step.1 > 1).map(|step| step.0 * size);
        steps.fold(base, |all, bytes| if bytes == 0 { all } else { all.min(1 << bytes.trailing_zeros().min(30)) })
    }
}

/// Where the permuted batch-first arrays of permute-bmm put a lane's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Order {
    /// `[n][a][d][c]`: every vector is permuted within itself, rows of the products are strided.
    Vectors,
    /// `[a][d][n][c]`: the products are contiguous.
    Blocks,
}

impl Order {
    /// Both orders.
    pub const ALL: [Order; 2] = [Order::Vectors, Order::Blocks];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Chain, Factor, reference};

    /// Executes calls with loops, writing into poisoned memory.
    fn execute(product: &Product, calls: &[Call], x: &[f64], w: &[f64], outputs: usize) -> Vec<f64> {
        let mut y = vec![f64::NAN; outputs];
        let element = |operand: &Operand, start: usize, row: usize, column: usize| {
            let (row, column) = if operand.transposed { (column, row) } else { (row, column) };
            let at = start + row + column * operand.leading;
            match operand.array {
                Array::Input => x[at],
                Array::Weights => w[at],
                Array::Output => panic!("the output is only written"),
            }
        };
        for call in calls {
            for p in 0..call.batch {
                let [left, right, out] = [0, 1, 2].map(|k| call.offsets[k] + p * call.strides[k]);
                for (row, column) in (0..product.m).flat_map(|row| (0..product.n).map(move |column| (row, column))) {
                    let terms = (0..product.k)
                        .map(|t| element(&product.left, left, row, t) * element(&product.right, right, t, column));
                    let at = out + row + column * product.out.leading;
                    assert!(y[at].is_nan(), "output {at} is written twice");
                    y[at] = terms.sum();
                }
            }
        }
        y
    }

    fn shapes() -> Vec<Pattern> {
        let texts = ["1,1,1,1", "1,5,3,1", "3,4,2,1", "1,2,3,4", "2,3,5,7", "4,1,3,2", "3,2,1,5", "2,4,4,8", "7,3,3,2"];
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    fn random(count: usize) -> Vec<f64> {
        (0..count).map(|_| fastrand::f64() - 0.5).collect()
    }

    fn expected(factor: &Factor<f64>, x: &[f64], n: usize, layout: Layout) -> Vec<f64> {
        let chain = Chain::new(vec![factor.clone()]).unwrap();
        reference::multiply(&chain, None, Activation::None, x, n, layout)
    }

    fn close(found: &[f64], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let worst = found
            .iter()
            .zip(expected)
            .map(|(f, e)| (f - e).abs())
            .fold(0.0, |w: f64, d| if d.is_nan() { d } else { w.max(d) });
        assert!(worst < 1e-12, "{what}: {worst}");
    }

    #[test]
    fn strided_products_are_the_factor_whatever_one_loops_over() {
        for pattern in shapes() {
            let factor = Factor::from_fn(pattern, |_, _, _, _| fastrand::f64() - 0.5);
            let w = Product::pack(pattern, factor.weights());
            for (layout, n) in Layout::ALL.into_iter().flat_map(|l| [1, 2, 5].map(|n| (l, n))) {
                let x = random(n * pattern.cols());
                let Ok(product) = Product::strided(pattern, n, layout) else {
                    assert!(layout == Layout::BatchFirst && pattern.d() > 1);
                    continue;
                };
                let right = expected(&factor, &x, n, layout);
                for looped in [0, 1] {
                    let calls = product.calls(looped);
                    assert_eq!(calls.len(), product.batches[looped]);
                    let y = execute(&product, &calls, &x, &w, n * pattern.rows());
                    close(&y, &right, &format!("{pattern} {layout} n = {n}, loop over {looped}"));
                }
                assert_eq!(product.calls(product.shorter_loop()).len(), pattern.a().min(pattern.d()));
            }
        }
    }

    #[test]
    fn a_dense_product_is_a_whole_chain() {
        for (rows, cols, n) in [(6, 4, 5), (1, 7, 3), (8, 1, 2)] {
            let factor = Factor::from_fn(Pattern::new(1, rows, cols, 1).unwrap(), |_, _, _, _| fastrand::f64() - 0.5);
            for layout in Layout::ALL {
                let x = random(n * cols);
                let product = Product::dense(rows, cols, n, layout).unwrap();
                let y = execute(&product, &product.calls(0), &x, factor.weights(), n * rows);
                close(&y, &expected(&factor, &x, n, layout), &format!("{rows} × {cols} {layout}"));
            }
        }
    }

    #[test]
    fn permuted_products_are_the_factor_between_two_permutations() {
        for pattern in shapes() {
            let [a, b, c, d] = pattern.shape();
            let factor = Factor::from_fn(pattern, |_, _, _, _| fastrand::f64() - 0.5);
            let w = Product::pack(pattern, factor.weights());
            for (layout, order) in Layout::ALL.into_iter().flat_map(|l| Order::ALL.map(|o| (l, o))) {
                let n = 3;
                let place = |s: usize, i: usize, j: usize, f: usize, features: usize| match (layout, order) {
                    (Layout::BatchLast, _) => ((i * d + j) * features + f) * n + s,
                    (Layout::BatchFirst, Order::Vectors) => ((s * a + i) * d + j) * features + f,
                    (Layout::BatchFirst, Order::Blocks) => ((i * d + j) * n + s) * features + f,
                };
                let x = random(n * pattern.cols());
                let (mut apart, mut y) = (vec![f64::NAN; x.len()], vec![f64::NAN; n * pattern.rows()]);
                for (s, i, j) in (0..n * a * d).map(|k| (k / (a * d), k / d % a, k % d)) {
                    for l in 0..c {
                        apart[place(s, i, j, l, c)] = x[layout.index(s, pattern.col(i, l, j), n, pattern.cols())];
                    }
                }
                let product = Product::lanes_apart(pattern, n, layout, order).unwrap();
                let out = execute(&product, &product.calls(1), &apart, &w, y.len());
                for (s, i, j) in (0..n * a * d).map(|k| (k / (a * d), k / d % a, k % d)) {
                    for o in 0..b {
                        y[layout.index(s, pattern.row(i, o, j), n, pattern.rows())] = out[place(s, i, j, o, b)];
                    }
                }
                close(&y, &expected(&factor, &x, n, layout), &format!("{pattern} {layout} {order:?}"));
            }
        }
    }

    #[test]
    fn alignment_is_that_of_every_address() {
        let product = Product::strided("2,3,5,7".parse().unwrap(), 12, Layout::BatchLast).unwrap();
        // Lanes are 12 elements apart: 24 bytes in f16, 48 in f32.
        assert_eq!(product.alignment(&product.left, 16, 2), 8);
        assert_eq!(product.alignment(&product.left, 256, 4), 16);
        assert_eq!(product.alignment(&product.right, 16, 4), 4);
        let one = Product::dense(3, 5, 7, Layout::BatchFirst).unwrap();
        assert_eq!(one.alignment(&one.right, 16, 2), 16);
    }
}
