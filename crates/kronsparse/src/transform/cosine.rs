//! The discrete cosine transform of type II: a *real* chain behind one permutation.

use super::fourier::{butterfly, root_of_unity};
use super::{Permutation, Transform, log2};
use crate::scalar::Wide;
use crate::{Chain, ChainPattern, Pattern, Result, Scalar};

/// The discrete cosine transform of type II, `C[k, t] = cos(π·k·(2t + 1) / 2n)`, unnormalised, as `chain · permutation`.
///
/// With `v[t] = x[2t]`, `v[n−1−t] = x[2t+1]` and `V` the DFT of `v`, it is `y[k] = Re(exp(−πi·k/2n) · V[k])` (Makhoul, *A
/// fast cosine transform in one and two dimensions*, 1980). The permutation is that reordering followed by the bit reversal.
/// The complex butterflies of the DFT become real ones by carrying real and imaginary part side by side: stage `ℓ` has the
/// pattern `(2^{ℓ−1}, 4, 4, n/2^ℓ)`, where outputs are ordered (part, half) and inputs (half, part). The first stage
/// reads real numbers and needs half of its inputs, the last one absorbs the twiddles `exp(−πi·k/2n)` and keeps real
/// parts only, half of its outputs: `(1, 2, 4, n/2) (2, 4, 4, n/4) … (n/2, 4, 2, 1)`, all of it real and chainable.
///
/// `n` must be a power of two. Any element type; complex inputs are transformed linearly.
pub fn dct2<T: Scalar>(n: usize) -> Result<Transform<T>> {
    transform(n, |_| 1.0)
}

/// [`dct2`] with row 0 over `sqrt(n)` and all others over `sqrt(n/2)`: an orthogonal matrix.
pub fn dct2_orthonormal<T: Scalar>(n: usize) -> Result<Transform<T>> {
    transform(n, |row| if row == 0 { (1.0 / n as f64).sqrt() } else { (2.0 / n as f64).sqrt() })
}

fn transform<T: Scalar>(n: usize, scale: impl Fn(usize) -> f64) -> Result<Transform<T>> {
    let stages = log2("discrete cosine transform", n)?;
    let reorder = (0..n).map(|i| if i < n.div_ceil(2) { 2 * i } else { 2 * (n - 1 - i) + 1 });
    let permutation = Permutation::bit_reversal(n)?.after(&Permutation::new(reorder.collect())?)?;
    let pattern = |at: usize| {
        let outputs = if at == 0 { 2 } else { 4 };
        let inputs = if at + 1 == stages { 2 } else { 4 };
        Pattern::new(1 << at, outputs, inputs, n >> (at + 1))
    };
    let patterns = match stages {
        0 => vec![Pattern::new(1, 1, 1, 1)?],
        _ => (0..stages).map(pattern).collect::<Result<_>>()?,
    };
    let pattern = ChainPattern::new(patterns)?;
    let chain = Chain::from_fn(&pattern, |at, _, o, l, j| {
        let p = pattern.patterns()[at];
        if stages == 0 {
            return T::narrow(T::Wide::from_parts(scale(0), 0.0));
        }
        // Output (part, half); the last stage, which is the first factor, has real parts alone.
        let (part_out, half_out) = (o / 2, o % 2);
        // Input (half, part); the first stage reads real parts alone.
        let (half_in, part_in) = if p.c() == 4 { (l / 2, l % 2) } else { (l, 0) };
        let mut weight = butterfly(half_out, half_in, j, p.d());
        if at == 0 {
            let row = half_out * p.d() + j;
            let (re, im) = twiddled(half_in, row, n);
            weight = (re * scale(row), im * scale(row));
        }
        let value = match (part_out, part_in) {
            (0, 0) | (1, 1) => weight.0,
            (0, _) => -weight.1,
            _ => weight.1,
        };
        T::narrow(T::Wide::from_parts(value, 0.0))
    });
    Transform::new(permutation, chain)
}

/// The weight of the last stage in row `k` times `exp(−πi·k/2n)`, as one root of unity: for the second half of the inputs
/// the butterfly's own weight is `exp(−2πi·k/n)`, sign included.
fn twiddled(half_in: usize, k: usize, n: usize) -> (f64, f64) {
    if half_in == 0 { root_of_unity(k, 4 * n) } else { root_of_unity(5 * k, 4 * n) }
}
