//! Multiplication on memory that others own, given by address: what PyTorch's tensors need, without linking to PyTorch.
//!
//! The functions are for `kronsparse.torch` alone, which looks at shape, dtype, device and strides before it calls them.

use kronsparse::{Activation, Chain, Factor, Join, Layout, Pattern};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::dtype::{self, with_dtype};
use crate::error::IntoPython;
use crate::operator::{Operator, Packed};

/// Four numbers, the shape of a factor's weights.
pub(crate) type Shape = (usize, usize, usize, usize);

/// So many numbers of each array are looked at by [`same_at`].
const SAMPLES: usize = 64;

/// A copy of the chain whose weights lie at these addresses, in C order; its conjugate transpose if `adjoint`.
///
/// # Safety
///
/// Each address is that of `a·b·c·d` numbers of type `T` in C order, aligned, and nobody writes there meanwhile.
pub(crate) unsafe fn chain_at<T: Packed>(shapes: &[Shape], addresses: &[usize], adjoint: bool) -> PyResult<Chain<T>> {
    if shapes.len() != addresses.len() {
        let (expected, found) = (shapes.len(), addresses.len());
        return Err(PyValueError::new_err(format!(
            "addresses: expected one for each of {expected} factors, found {found}"
        )));
    }
    let mut factors = Vec::with_capacity(shapes.len());
    for (&(a, b, c, d), &address) in shapes.iter().zip(addresses) {
        let pattern = Pattern::new(a, b, c, d).python()?;
        allocated("a weight", address, align_of::<T>())?;
        // SAFETY: the caller's word; a pattern has at least one element.
        let weights = unsafe { slice::<T>(address, pattern.nnz()) };
        factors.push(Factor::new(pattern, weights.to_vec()).python()?);
    }
    let chain = Chain::new(factors).python()?;
    Ok(if adjoint { chain.adjoint() } else { chain })
}

/// Refuses an address that cannot be one: of a tensor whose storage was given up, as some ways of sharding do, or between numbers.
pub(crate) fn allocated(what: &str, address: usize, alignment: usize) -> PyResult<()> {
    if address == 0 {
        return Err(PyValueError::new_err(format!(
            "{what}: expected numbers in memory, found a tensor without storage"
        )));
    }
    if !address.is_multiple_of(alignment) {
        return Err(PyValueError::new_err(format!(
            "{what}: expected an address that is a multiple of {alignment} bytes, found {address:#x}"
        )));
    }
    Ok(())
}

/// A copy of the bias at an address, if that is not 0.
///
/// # Safety
///
/// As for [`chain_at`], for `rows` numbers.
pub(crate) unsafe fn bias_at<T: Packed>(address: usize, rows: usize) -> PyResult<Option<Vec<T>>> {
    if address == 0 {
        return Ok(None);
    }
    allocated("a bias", address, align_of::<T>())?;
    // SAFETY: the caller's word.
    Ok(Some(unsafe { slice::<T>(address, rows) }.to_vec()))
}

/// Numbers at an address.
///
/// # Safety
///
/// There are `len` of them, aligned, alive and unchanged as long as the result is used.
unsafe fn slice<'a, T>(address: usize, len: usize) -> &'a [T] {
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}

/// Packs the chain whose weights lie at these addresses (host memory, C order, contiguous); its conjugate transpose if
/// `adjoint`. One more address than shapes is that of a bias.
#[pyfunction]
#[pyo3(signature = (dtype, shapes, addresses, adjoint, threads))]
pub(crate) fn pack_at(
    py: Python<'_>,
    dtype: &str,
    shapes: Vec<Shape>,
    addresses: Vec<usize>,
    adjoint: bool,
    threads: usize,
) -> PyResult<Operator> {
    let dtype = dtype::of_name(dtype)?;
    let (weights, bias) = addresses.split_at(shapes.len().min(addresses.len()));
    with_dtype!(dtype, T => py.detach(|| {
        // SAFETY: the Python package passes addresses of contiguous tensors of these shapes, which it keeps alive.
        let chain = unsafe { chain_at::<T>(&shapes, weights, adjoint) }?;
        bias.iter().try_for_each(|&at| allocated("the bias", at, align_of::<T>()))?;
        // SAFETY: as above; the length of the bias was compared with the rows.
        let values = bias.first().map(|&at| unsafe { slice::<T>(at, chain.rows()) }.to_vec());
        let mut operator = Operator::pack(&chain, values, Activation::None, Join::None, threads).python()?;
        let lengths = shapes.iter().map(|&(a, b, c, d)| a * b * c * d).chain(bias.iter().map(|_| chain.rows()));
        // SAFETY: as above.
        unsafe { operator.remember(lengths.collect(), &addresses) };
        Ok(operator)
    }))
}

/// Multiplies `n` vectors that lie at `x` one after the other into `y`, releasing the interpreter's lock.
#[pyfunction]
#[pyo3(signature = (operator, x, y, n))]
pub(crate) fn apply_at(py: Python<'_>, operator: &Operator, x: usize, y: usize, n: usize) -> PyResult<()> {
    if n == 0 {
        return Ok(());
    }
    with_dtype!(operator.dtype, T => {
        allocated("x", x, align_of::<T>())?;
        allocated("y", y, align_of::<T>())?;
        // SAFETY: the Python package passes addresses of contiguous tensors of `n` vectors each, which it keeps alive.
        let from = unsafe { slice::<T>(x, n * operator.patterns.cols()) };
        // SAFETY: as above; `y` was allocated for this call, so nobody else names it.
        let to = unsafe { std::slice::from_raw_parts_mut(y as *mut T, n * operator.outputs) };
        py.detach(|| operator.multiply(from, to, n, Layout::BatchFirst)).python()
    })
}

/// Whether a sample of the numbers at these addresses is what was packed: 64 of each array, spread evenly. Finds changes of whole
/// arrays that PyTorch does not count (through `.data`), not those of single numbers.
#[pyfunction]
#[pyo3(signature = (operator, addresses))]
pub(crate) fn same_at(operator: &Operator, addresses: Vec<usize>) -> bool {
    same(operator, &addresses)
}

/// [`same_at`] for Rust.
pub(crate) fn same(operator: &Operator, addresses: &[usize]) -> bool {
    // A tensor whose storage was given up lies nowhere.
    if addresses.len() != operator.lengths.len() || addresses.contains(&0) {
        return false;
    }
    // SAFETY: the Python package passes the addresses of tensors as large as those that were packed.
    operator.fingerprint == unsafe { fingerprint(operator, addresses) }
}

impl Operator {
    /// Remembers a sample of what was packed: of arrays of these lengths at these addresses.
    ///
    /// # Safety
    ///
    /// The arrays are alive and nobody writes there meanwhile.
    pub(crate) unsafe fn remember(&mut self, lengths: Vec<usize>, addresses: &[usize]) {
        self.lengths = lengths;
        // SAFETY: the caller's word.
        self.fingerprint = unsafe { fingerprint(self, addresses) };
    }
}

/// A hash of numbers spread over all arrays.
///
/// # Safety
///
/// The addresses are those of arrays like the ones that were packed.
unsafe fn fingerprint(operator: &Operator, addresses: &[usize]) -> u64 {
    let size = operator.dtype.size();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for (&address, &len) in addresses.iter().zip(&operator.lengths) {
        // SAFETY: the caller's word; any bytes are bytes.
        let bytes = unsafe { slice::<u8>(address, len * size) };
        hash = match size {
            2 => mixed::<2>(hash, bytes),
            4 => mixed::<4>(hash, bytes),
            8 => mixed::<8>(hash, bytes),
            _ => mixed::<16>(hash, bytes),
        };
    }
    hash
}

/// FNV-1a of a sample of numbers of `SIZE` bytes, eight bytes at a time: four hashes side by side, which do not wait for each other.
fn mixed<const SIZE: usize>(hash: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    let mut hashes = [hash, hash ^ 1, hash ^ 2, hash ^ 3];
    let count = numbers.len().min(SAMPLES);
    // Evenly, the last element included.
    let step = (numbers.len() as f64 - 1.0) / (count as f64 - 1.0).max(1.0);
    for k in 0..count {
        let at = ((step * k as f64 + 0.5) as usize).min(numbers.len() - 1);
        let mut wide = [0; 16];
        wide[..SIZE].copy_from_slice(&numbers[at]);
        let (words, _) = wide.as_chunks::<8>();
        let hash = &mut hashes[k % 4];
        for word in &words[..SIZE.div_ceil(8)] {
            // The shift brings what is in the upper bytes down again.
            *hash = (*hash ^ u64::from_ne_bytes(*word)).wrapping_mul(PRIME);
            *hash ^= *hash >> 32;
        }
    }
    hashes.into_iter().fold(hash, |hash, one| (hash ^ one).wrapping_mul(PRIME).rotate_left(17))
}
