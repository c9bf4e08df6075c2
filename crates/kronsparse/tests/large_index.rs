//! Indices beyond 2³¹ and 2³² elements, without the memory: patterns and lengths as numbers, and one product whose input
//! of more than 2³¹ elements is mapped but, all zeros save a few, never becomes resident.

use half::f16;
use kronsparse::cpu::{Operator, Options};
use kronsparse::plan::{Algorithm, Problem};
use kronsparse::{Chain, ChainPattern, DType, Error, Factor, Layout, Pattern, relative_error};
use memmap2::MmapOptions;

fn p(a: usize, b: usize, c: usize, d: usize) -> Pattern {
    Pattern::new(a, b, c, d).unwrap()
}

#[test]
fn patterns_count_beyond_32_bits() {
    // 2^16 super-blocks of 2^7 × 2^6 blocks of 2^5 lanes: 2^34 weights, 2^28 rows, 2^27 columns.
    let big = p(1 << 16, 1 << 7, 1 << 6, 1 << 5);
    assert_eq!((big.nnz(), big.rows(), big.cols()), (1 << 34, 1 << 28, 1 << 27));
    let [i, o, l, j] = big.shape().map(|size| size - 1);
    assert_eq!(big.weight_index(i, o, l, j), (1 << 34) - 1);
    assert_eq!(big.weight_index(i, 0, 0, 0), (1 << 34) - (1 << 18));
    assert!(big.contains(big.row(i, o, j), big.col(i, l, j)));
    assert!(!big.contains(big.row(i, o, j), big.col(i - 1, l, j)));
    assert_eq!(big.transpose().nnz(), 1 << 34);
    assert_eq!(big.bytes(1 << 20, 2), 2.0 * (2f64.powi(20) * (2f64.powi(28) + 2f64.powi(27)) + 2f64.powi(34)));
    let chain = ChainPattern::monarch(1 << 20, 1 << 20, 1 << 10, 1 << 10).unwrap();
    assert_eq!(chain.parameters(), 1 << 31);
    assert_eq!(chain.product(0..2).unwrap().shape(), [1, 1 << 20, 1 << 20, 1]);
    let problem = Problem { chain, dtype: DType::C128, batch: 1 << 30, layout: Layout::BatchLast };
    assert_eq!(problem.flops(), 8.0 * 2f64.powi(61));
    assert!(Pattern::new(1 << 32, 1 << 16, 1 << 16, 1).is_err(), "2^64 entries cannot be indexed");
}

#[test]
fn layouts_index_beyond_32_bits() {
    let (n, features) = ((1usize << 33) + 5, (1usize << 20) + 3);
    assert_eq!(Layout::BatchFirst.index(n - 1, features - 1, n, features), n * features - 1);
    assert_eq!(Layout::BatchLast.index(n - 1, features - 1, n, features), n * features - 1);
    assert_eq!(Layout::BatchFirst.index(n - 1, 0, n, features), (n - 1) * features);
    assert_eq!(Layout::BatchLast.index(0, features - 1, n, features), (features - 1) * n);
}

/// What the error says it expected and found.
#[track_caller]
fn length(result: kronsparse::Result<()>) -> (usize, usize) {
    match result {
        Err(Error::Length { expected, found, .. }) => (expected, found),
        other => panic!("expected a length error, found {other:?}"),
    }
}

#[test]
fn lengths_beyond_32_bits_are_named_right() {
    let pattern = ChainPattern::monarch(12, 6, 3, 2).unwrap();
    let chain = Chain::from_fn(&pattern, |_, i, o, l, j| (i + o + l + j) as f32);
    for algorithm in [Algorithm::Auto].into_iter().chain(Algorithm::on_cpu()) {
        let operator = Operator::new(&chain, Options { algorithm, ..Options::default() }).unwrap();
        for layout in Layout::ALL {
            // 2^31 and 2^32 vectors: the low 32 bits of `n · 6` are those of an empty batch.
            for n in [1usize << 31, 1 << 32, (1 << 33) + 1] {
                let x = vec![0.0; (n * 6) as u32 as usize];
                assert_eq!(length(operator.apply(&x, &mut [], n, layout)), (6 * n, x.len()), "{algorithm} {layout}");
                assert!(operator.apply_scratch(n, layout) < usize::MAX, "{algorithm} {layout}");
            }
            // 2^63 vectors of 6: nothing, modulo 2^64.
            for n in [1usize << 63, usize::MAX] {
                let (expected, found) = length(operator.apply(&[], &mut [], n, layout));
                assert!(expected > isize::MAX as usize && found == 0, "{algorithm} {layout}: {expected}");
                assert!(operator.multiply(&[], n, layout).is_err(), "{algorithm} {layout}");
            }
        }
    }
}

/// A product over more than 2³¹ input elements: zeros, but for the first vector, the last, and the two on either side of
/// element 2³¹. Reading zeros of an anonymous map needs no memory, and only a few pages are written.
#[test]
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn a_product_over_more_than_two_to_the_31_elements() {
    const COLS: usize = 4096;
    let n = (1usize << 31) / COLS + 7;
    let chain = Chain::from(Factor::from_fn(p(1, 1, COLS, 1), |_, _, l, _| f16::from_f64((l % 7) as f64 - 3.0)));
    let operator = Operator::new(&chain, Options::default()).unwrap();
    for layout in Layout::ALL {
        let mut map = MmapOptions::new().len(n * COLS * size_of::<f16>()).no_reserve_swap().map_anon().unwrap();
        let x: &mut [f16] = bytemuck::cast_slice_mut(&mut map);
        assert!(x.len() > 1 << 31);
        let middle = match layout {
            Layout::BatchFirst => (1usize << 31) / COLS,
            Layout::BatchLast => (1usize << 31) % n,
        };
        let mut expected = vec![f16::ZERO; n];
        for (vector, value) in [(0, 1.0), (middle - 1, -2.0), (middle, 0.5), (n - 1, 4.0)] {
            // Few columns per vector, the first and the last among them; each weight is a small whole number.
            let columns = [0, COLS / 2 - 1, COLS / 2, COLS - 2, COLS - 1];
            for col in columns {
                x[layout.index(vector, col, n, COLS)] = f16::from_f64(value * (col % 3 + 1) as f64);
            }
            let sum: f64 = columns.iter().map(|&col| value * (col % 3 + 1) as f64 * ((col % 7) as f64 - 3.0)).sum();
            assert_ne!(sum, 0.0, "the vector must show in the result");
            expected[vector] = f16::from_f64(sum);
        }
        let mut y = vec![f16::NAN; n];
        operator.apply(x, &mut y, n, layout).unwrap();
        let wrong = (0..n).find(|&at| y[at] != expected[at]);
        assert_eq!(
            wrong,
            None,
            "{layout}: {:?}, relative error {:.1e}",
            wrong.map(|at| (y[at], expected[at])),
            relative_error(&y, &expected)
        );
    }
}
