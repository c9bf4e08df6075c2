//! Random weights and inputs: fresh in every run, rounded to the element type, and never so that the result cancels out.

use fastrand::Rng;
use kronsparse::scalar::Wide;
use kronsparse::{Chain, ChainPattern, Layout, Pattern, Scalar};

/// The seed of this run: `KRONSPARSE_SEED` where it is set, else a fresh one.
pub(crate) fn seed() -> u64 {
    match std::env::var("KRONSPARSE_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("KRONSPARSE_SEED={text} is no whole number")),
        Err(_) => fastrand::u64(..),
    }
}

/// A chain with random weights, and what is needed to draw inputs that suit it.
///
/// Tolerances are relative to the norm of the result, so a result that happens to cancel out would fail without any
/// mistake: with one output of 5,000 terms that happens every few dozen runs. [`Draw::Aligned`] rules it out for small
/// problems; [`Draw::Symmetric`] is for all others, because sums that cancel in part are the usual case and show a lost
/// term best.
pub(crate) struct Weights<T: Scalar> {
    pub(crate) chain: Chain<T>,
    pub(crate) bias: Option<Vec<T>>,
    draw: Draw,
    units: Vec<T::Wide>,
}

/// How numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// All numbers around zero.
    Symmetric,
    /// Each factor is `D_ℓ M_ℓ D_{ℓ+1}*` with random diagonals `D` of units (±1, or ±1 and ±i) and entries of `M` around
    /// 1; an input is `D_{L+1} m` with `m` around 1. Hidden and final values then have predictable magnitudes, and
    /// unpredictable signs.
    Aligned,
}

impl Draw {
    /// The draw for `n` vectors: symmetric where input, output and every hidden vector hold enough independent numbers.
    pub(crate) fn of(pattern: &ChainPattern, n: usize) -> Draw {
        let narrowest = pattern.patterns().iter().map(|p| p.rows()).min().unwrap_or(1);
        if n * narrowest >= 64 { Draw::Symmetric } else { Draw::Aligned }
    }
}

impl<T: Scalar> Weights<T> {
    /// Weights for a chain, and a bias where asked for.
    pub(crate) fn draw(pattern: &ChainPattern, bias: bool, draw: Draw, rng: &mut Rng) -> Weights<T> {
        let patterns = pattern.patterns();
        let sizes = patterns.iter().map(|p| p.rows()).chain([pattern.cols()]);
        let units: Vec<Vec<T::Wide>> = sizes.map(|size| (0..size).map(|_| unit::<T>(rng)).collect()).collect();
        let chain = Chain::from_fn(pattern, |at, i, o, l, j| {
            let p = patterns[at];
            let c = p.c() as f64;
            T::narrow(match draw {
                Draw::Symmetric => around_zero::<T>(rng) * T::Wide::from_parts(2.0 / c.sqrt(), 0.0),
                Draw::Aligned => {
                    let (left, right) = (units[at][p.row(i, o, j)], units[at + 1][p.col(i, l, j)]);
                    left * around_one::<T>(rng) * conj(right) * T::Wide::from_parts(1.0 / c, 0.0)
                }
            })
        });
        let bias = bias.then(|| (0..pattern.rows()).map(|_| T::narrow(around_zero::<T>(rng))).collect());
        Weights { chain, bias, draw, units: units.into_iter().last().expect("a chain has a right end") }
    }

    /// `n` random vectors in `layout`.
    pub(crate) fn draw_input(&self, n: usize, layout: Layout, rng: &mut Rng) -> Vec<T> {
        let cols = self.chain.cols();
        let mut x = vec![T::ZERO; n * cols];
        for batch in 0..n {
            for col in 0..cols {
                x[layout.index(batch, col, n, cols)] = T::narrow(match self.draw {
                    Draw::Symmetric => around_zero::<T>(rng),
                    Draw::Aligned => self.units[col] * around_one::<T>(rng),
                });
            }
        }
        x
    }
}

/// The gradient of a factor's outputs and its inputs, `n` random vectors each, batch-first, so that the gradient of its weights does not
/// happen to cancel out: few weights have terms of one sign, as [`Draw::Aligned`].
pub(crate) fn learned<T: Scalar>(pattern: Pattern, n: usize, rng: &mut Rng) -> (Vec<T>, Vec<T>) {
    let (rows, cols) = (pattern.rows(), pattern.cols());
    if pattern.nnz() >= 64 {
        let mut draw = |len: usize| (0..len).map(|_| T::narrow(around_zero::<T>(rng))).collect();
        return (draw(n * rows), draw(n * cols));
    }
    let mut units = |len: usize| (0..len).map(|_| unit::<T>(rng)).collect::<Vec<_>>();
    let (of_batch, of_rows, of_cols) = (units(n), units(rows), units(cols));
    let mut draw = |units: &[T::Wide]| {
        let one = |k: usize| T::narrow(of_batch[k / units.len()] * units[k % units.len()] * around_one::<T>(rng));
        (0..n * units.len()).map(one).collect()
    };
    (draw(&of_rows), draw(&of_cols))
}

/// ±1; for complex types also ±i.
fn unit<T: Scalar>(rng: &mut Rng) -> T::Wide {
    let turns = if T::DTYPE.is_complex() { 4 } else { 2 };
    match rng.u32(..turns) {
        0 => T::Wide::from_parts(1.0, 0.0),
        1 => T::Wide::from_parts(-1.0, 0.0),
        2 => T::Wide::from_parts(0.0, 1.0),
        _ => T::Wide::from_parts(0.0, -1.0),
    }
}

fn conj<W: Wide>(value: W) -> W {
    let (re, im) = value.parts();
    W::from_parts(re, -im)
}

fn around_zero<T: Scalar>(rng: &mut Rng) -> T::Wide {
    T::Wide::from_parts(2.0 * rng.f64() - 1.0, 2.0 * rng.f64() - 1.0)
}

/// Far enough from zero that no product of two has a negative real part; spread enough that any two differ.
fn around_one<T: Scalar>(rng: &mut Rng) -> T::Wide {
    let spread = if T::DTYPE.is_complex() { 0.5 } else { 0.75 };
    around_zero::<T>(rng) * T::Wide::from_parts(spread, 0.0) + T::Wide::from_parts(1.0, 0.0)
}

/// A real number in the element type.
pub(crate) fn real<T: Scalar>(value: f64) -> T {
    T::narrow(T::Wide::from_parts(value, 0.0))
}

/// NaN in every part.
pub(crate) fn nan<T: Scalar>() -> T {
    T::narrow(T::Wide::from_parts(f64::NAN, f64::NAN))
}

/// Whether any part is NaN.
pub(crate) fn is_nan<T: Scalar>(value: T) -> bool {
    let (re, im) = value.widen().parts();
    re.is_nan() || im.is_nan()
}

/// Memory with NaN on both sides of the part that an engine may see.
///
/// What is read beside it poisons the result; what is written beside it is found by [`Fenced::broken`]. The part starts
/// at an odd element, so that nothing relies on more than the alignment of one element.
pub(crate) struct Fenced<T> {
    memory: Vec<T>,
    len: usize,
}

const FENCE: usize = 67;

impl<T: Scalar> Fenced<T> {
    /// A fenced copy of `inside`.
    pub(crate) fn new(inside: &[T]) -> Fenced<T> {
        let mut memory = vec![nan::<T>(); 2 * FENCE];
        memory.splice(FENCE..FENCE, inside.iter().copied());
        Fenced { memory, len: inside.len() }
    }
    /// `len` fenced elements that are all NaN: what was never written is found in the result.
    pub(crate) fn poisoned(len: usize) -> Fenced<T> {
        Fenced { memory: vec![nan::<T>(); len + 2 * FENCE], len }
    }
    /// The inside.
    pub(crate) fn get(&self) -> &[T] {
        &self.memory[FENCE..FENCE + self.len]
    }
    /// The inside, to be written.
    pub(crate) fn get_mut(&mut self) -> &mut [T] {
        &mut self.memory[FENCE..FENCE + self.len]
    }
    /// All memory, fences included: for tests of the fence itself.
    pub(crate) fn memory_mut(&mut self) -> &mut [T] {
        &mut self.memory
    }
    /// Offset from the start of the inside of a fence element that was written, if any.
    pub(crate) fn broken(&self) -> Option<isize> {
        let inside = FENCE..FENCE + self.len;
        let at = (0..self.memory.len()).find(|at| !inside.contains(at) && !is_nan(self.memory[*at]));
        at.map(|at| at as isize - FENCE as isize)
    }
}

/// Calls the same generic function once for every element type: `for_each_dtype!(check(n, layout))`.
#[allow(unused_macros)]
macro_rules! for_each_dtype {
    ($f:ident ( $($arg:expr),* )) => {{
        $f::<half::f16>($($arg),*);
        $f::<half::bf16>($($arg),*);
        $f::<f32>($($arg),*);
        $f::<f64>($($arg),*);
        $f::<num_complex::Complex32>($($arg),*);
        $f::<num_complex::Complex64>($($arg),*);
    }};
}
// Not every test binary uses the macro.
#[allow(unused_imports)]
pub(crate) use for_each_dtype;
