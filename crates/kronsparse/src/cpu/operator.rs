//! The engine's front: checks, packing, and the choice of the algorithm.

use crate::plan::{Activation, Algorithm, Layout};
use crate::{Chain, Error, Result, Scalar};

/// How an [`Operator`] multiplies. Every field has a default.
#[derive(Clone, Debug)]
pub struct Options<T> {
    /// Added to every output vector: one number per row of the chain.
    pub bias: Option<Vec<T>>,
    /// Applied after the bias. Real element types only, but for [`Activation::None`].
    pub activation: Activation,
    /// Which algorithm; [`Algorithm::Auto`] lets the planner choose per batch size and layout.
    pub algorithm: Algorithm,
    /// How many threads at most; 0 means all of rayon's current pool.
    pub threads: usize,
}

impl<T> Default for Options<T> {
    fn default() -> Self {
        Options { bias: None, activation: Activation::None, algorithm: Algorithm::Auto, threads: 0 }
    }
}

/// Working memory of [`Operator::apply_with`], aligned to cache lines; grows when an operator asks for more.
#[derive(Debug, Default)]
pub struct Scratch {
    bytes: usize,
}

impl Scratch {
    /// At least `bytes` bytes: what [`Operator::apply_scratch`] says.
    pub fn new(bytes: usize) -> Scratch {
        Scratch { bytes }
    }
}

/// A chain made ready for multiplication on this machine's CPU.
#[derive(Debug)]
pub struct Operator<T> {
    chain: Chain<T>,
    options: Options<T>,
}

impl<T: Scalar> Operator<T> {
    /// Checks the options and packs the weights.
    pub fn new(chain: &Chain<T>, options: Options<T>) -> Result<Operator<T>> {
        if let Some(bias) = &options.bias
            && bias.len() != chain.rows()
        {
            return Err(Error::Length { what: "bias (rows of the chain)", expected: chain.rows(), found: bias.len() });
        }
        if T::DTYPE.is_complex() && options.activation != Activation::None {
            return Err(Error::Unsupported {
                what: format!("activation {} on {}", options.activation, T::DTYPE),
                why: "activations are defined for real numbers".into(),
            });
        }
        Ok(Operator { chain: chain.clone(), options })
    }

    /// Size of an output vector.
    pub fn rows(&self) -> usize {
        self.chain.rows()
    }
    /// Size of an input vector.
    pub fn cols(&self) -> usize {
        self.chain.cols()
    }

    /// Bytes of scratch that [`Operator::apply_with`] needs for a batch of `n`.
    pub fn apply_scratch(&self, n: usize, layout: Layout) -> usize {
        let _ = (n, layout);
        0
    }

    /// `Y = activation(X Wᵀ + bias)` batch-first, `Y = activation(W X + bias)` batch-last, into `y`.
    ///
    /// `x` has `n · cols` elements, `y` has `n · rows`; every element of `y` is written. `n` may be 0.
    pub fn apply_with(&self, x: &[T], y: &mut [T], n: usize, layout: Layout, scratch: &mut Scratch) -> Result<()> {
        let _ = scratch.bytes;
        let check = |what, expected: usize, found| {
            if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
        };
        check("X (n · columns of the chain)", n * self.cols(), x.len())?;
        check("Y (n · rows of the chain)", n * self.rows(), y.len())?;
        let options = &self.options;
        let wide = crate::reference::multiply(&self.chain, options.bias.as_deref(), options.activation, x, n, layout);
        y.iter_mut().zip(wide).for_each(|(y, w)| *y = T::narrow(w));
        Ok(())
    }

    /// [`Operator::apply_with`] with scratch of its own.
    pub fn apply(&self, x: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        let mut scratch = Scratch::new(self.apply_scratch(n, layout));
        self.apply_with(x, y, n, layout, &mut scratch)
    }

    /// [`Operator::apply`] into a new vector.
    pub fn multiply(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        let mut y = vec![T::ZERO; n * self.rows()];
        self.apply(x, &mut y, n, layout)?;
        Ok(y)
    }
}
