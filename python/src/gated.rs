//! The gate and up layers of a gated MLP as one operator: `Y = activation(X Gᵀ + g) · (X Uᵀ + u)`, number by number.

use kronsparse::{Activation, Chain, Join};
use pyo3::prelude::*;

use crate::address::{Shape, bias_at, chain_at};
use crate::dtype::{self, with_dtype};
use crate::error::IntoPython;
use crate::operator::{Operator, Packed};

/// Where the parameters of both layers lie, in host memory, in C order: the shapes of the factors of either, the addresses of the
/// gate's weights, of the other's, and of the two biases, or 0.
#[derive(FromPyObject)]
pub(crate) struct Pair(Vec<Shape>, Vec<usize>, Vec<usize>, usize, usize);

impl Pair {
    /// One chain of both, whose rows come in twos, and their biases likewise.
    ///
    /// # Safety
    ///
    /// As for [`chain_at`] and [`bias_at`].
    pub(crate) unsafe fn interleaved<T: Packed>(&self) -> PyResult<(Chain<T>, Option<Vec<T>>)> {
        let Pair(shapes, gate, up, gate_bias, up_bias) = self;
        // SAFETY: the caller's word.
        let [gate, up] = [gate, up].map(|at| unsafe { chain_at::<T>(shapes, at, false) });
        let (gate, up) = (gate?, up?);
        let both = Chain::gated(&gate, &up).python()?;
        let rows = gate.rows();
        // SAFETY: the caller's word.
        let [gate_bias, up_bias] = [*gate_bias, *up_bias].map(|at| unsafe { bias_at::<T>(at, rows) });
        let biases = [gate_bias?, up_bias?];
        if biases.iter().all(Option::is_none) {
            return Ok((both, None));
        }
        let [gate, up] = biases.map(|bias| bias.unwrap_or_else(|| vec![T::ZERO; rows]));
        Ok((both, Some(gate.into_iter().zip(up).flat_map(|(gate, up)| [gate, up]).collect())))
    }

    /// All arrays that have numbers, with their lengths.
    fn arrays(&self, rows: usize) -> (Vec<usize>, Vec<usize>) {
        let Pair(shapes, gate, up, gate_bias, up_bias) = self;
        let lengths = shapes.iter().map(|&(a, b, c, d)| a * b * c * d);
        let weights = gate.iter().copied().zip(lengths.clone()).chain(up.iter().copied().zip(lengths));
        let biases = [*gate_bias, *up_bias].into_iter().filter(|&at| at != 0).map(|at| (at, rows));
        weights.chain(biases).unzip()
    }
}

/// Packs two layers of the same shapes for the CPU: `activation(x @ G.T + g) * (x @ U.T + u)`.
///
/// `pair` has the shapes of the factors, the addresses of the gate's and of the other's weights (host memory, C order,
/// contiguous), and of the biases, or 0.
#[pyfunction]
#[pyo3(signature = (dtype, pair, activation, threads))]
pub(crate) fn pack_gated_at(
    py: Python<'_>,
    dtype: &str,
    pair: Pair,
    activation: &str,
    threads: usize,
) -> PyResult<Operator> {
    let (dtype, activation): (_, Activation) = (dtype::of_name(dtype)?, activation.parse().python()?);
    with_dtype!(dtype, T => py.detach(|| {
        // SAFETY: the Python package passes addresses of contiguous tensors of these shapes, which it keeps alive.
        let (chain, bias) = unsafe { pair.interleaved::<T>() }?;
        let mut operator = Operator::pack(&chain, bias, activation, Join::Gate, threads).python()?;
        let (addresses, lengths) = pair.arrays(operator.outputs);
        // SAFETY: as above.
        unsafe { operator.remember(lengths, &addresses) };
        Ok(operator)
    }))
}
