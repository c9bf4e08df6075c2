//! Patterns, and chains of patterns by name: what has no weights.

use kronsparse::convert::Budget;
use kronsparse::{ChainPattern, ChainSpec};
use pyo3::prelude::*;

use crate::error::IntoPython;

/// A pattern `(a, b, c, d)` of positive integers: the support `I_a ⊗ 1_{b×c} ⊗ I_d` of a Kronecker-sparse matrix.
///
/// `rows = a·b·d`, `cols = a·c·d`, `nnz = a·b·c·d`. Weights are an array `w[i, o, l, j]` of shape `(a, b, c, d)`, and
/// `K[i·b·d + o·d + j, i·c·d + l·d + j] = w[i, o, l, j]`. Hashable, ordered, and unpacks like a tuple.
///
/// Raises ValueError for a zero, or for more entries than memory can hold.
#[pyclass(frozen, eq, hash, ord, module = "kronsparse", from_py_object)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pattern(pub(crate) kronsparse::Pattern);

#[pymethods]
impl Pattern {
    #[new]
    fn new(a: usize, b: usize, c: usize, d: usize) -> PyResult<Pattern> {
        kronsparse::Pattern::new(a, b, c, d).map(Pattern).python()
    }

    /// Reads `(a,b,c,d)` or `a,b,c,d`.
    #[staticmethod]
    fn parse(text: &str) -> PyResult<Pattern> {
        text.parse().map(Pattern).python()
    }

    /// Number of diagonal super-blocks.
    #[getter]
    fn a(&self) -> usize {
        self.0.a()
    }
    /// Outputs of a super-block, per lane.
    #[getter]
    fn b(&self) -> usize {
        self.0.b()
    }
    /// Inputs of a super-block, per lane.
    #[getter]
    fn c(&self) -> usize {
        self.0.c()
    }
    /// Lanes: the size of the diagonal blocks.
    #[getter]
    fn d(&self) -> usize {
        self.0.d()
    }
    /// Rows of the matrix, `a·b·d`.
    #[getter]
    fn rows(&self) -> usize {
        self.0.rows()
    }
    /// Columns of the matrix, `a·c·d`.
    #[getter]
    fn cols(&self) -> usize {
        self.0.cols()
    }
    /// Entries of the support, `a·b·c·d`: the number of parameters.
    #[getter]
    fn nnz(&self) -> usize {
        self.0.nnz()
    }
    /// `nnz / (rows · cols) = 1 / (a·d)`.
    #[getter]
    fn density(&self) -> f64 {
        self.0.density()
    }
    /// The pattern `(a, c, b, d)` of the transposed matrix.
    #[getter(T)]
    fn transposed(&self) -> Pattern {
        Pattern(self.0.transpose())
    }

    fn __len__(&self) -> usize {
        4
    }
    fn __getitem__(&self, index: isize) -> PyResult<usize> {
        let at = if index < 0 { index + 4 } else { index };
        let found = usize::try_from(at).ok().and_then(|at| self.0.shape().get(at).copied());
        found.ok_or_else(|| {
            pyo3::exceptions::PyIndexError::new_err(format!("a pattern has 4 numbers, found index {index}"))
        })
    }
    fn __getnewargs__(&self) -> (usize, usize, usize, usize) {
        let [a, b, c, d] = self.0.shape();
        (a, b, c, d)
    }
    fn __repr__(&self) -> String {
        let [a, b, c, d] = self.0.shape();
        format!("Pattern({a}, {b}, {c}, {d})")
    }
    fn __str__(&self) -> String {
        self.0.to_string()
    }
}

/// What is taken for a pattern: one, four numbers, or text.
#[derive(FromPyObject)]
pub(crate) enum PatternLike {
    Pattern(Pattern),
    #[pyo3(transparent)]
    Numbers((usize, usize, usize, usize)),
    #[pyo3(transparent)]
    Text(String),
}

impl PatternLike {
    /// The pattern itself, checked.
    pub(crate) fn get(self) -> PyResult<kronsparse::Pattern> {
        match self {
            PatternLike::Pattern(pattern) => Ok(pattern.0),
            PatternLike::Numbers((a, b, c, d)) => kronsparse::Pattern::new(a, b, c, d).python(),
            PatternLike::Text(text) => text.parse().python(),
        }
    }
}

/// A chain of patterns, left to right; sizes checked.
pub(crate) fn chain(patterns: Vec<PatternLike>) -> PyResult<ChainPattern> {
    let patterns = patterns.into_iter().map(PatternLike::get).collect::<PyResult<Vec<_>>>()?;
    ChainPattern::new(patterns).python()
}

/// A chain of patterns as Python sees it.
pub(crate) fn listed(chain: &ChainPattern) -> Vec<Pattern> {
    chain.patterns().iter().map(|&pattern| Pattern(pattern)).collect()
}

/// The patterns of a chain, left to right, after a check that neighbouring sizes match. ValueError names two that do not.
#[pyfunction]
pub(crate) fn check_chain(patterns: Vec<PatternLike>) -> PyResult<Vec<Pattern>> {
    chain(patterns).map(|chain| listed(&chain))
}

/// The rank `a1·c1 / a2` of every neighbouring pair; ValueError names a pair that is not chainable, and why.
#[pyfunction]
pub(crate) fn ranks(patterns: Vec<PatternLike>) -> PyResult<Vec<usize>> {
    chain(patterns)?.ranks().python()
}

/// The two patterns `(1, p, q, rows/p)(q, rows/p, cols/q, 1)` of a Monarch matrix; `p` divides `rows`, `q` divides `cols`.
#[pyfunction]
pub(crate) fn monarch(rows: usize, cols: usize, p: usize, q: usize) -> PyResult<Vec<Pattern>> {
    ChainPattern::monarch(rows, cols, p, q).map(|chain| listed(&chain)).python()
}

/// The `log2 n` patterns `(2^(k-1), 2, 2, n/2^k)` of the square dyadic (butterfly) chain; `n` is a power of two.
#[pyfunction]
pub(crate) fn square_dyadic(n: usize) -> PyResult<Vec<Pattern>> {
    ChainPattern::square_dyadic(n).map(|chain| listed(&chain)).python()
}

/// The patterns of the butterfly of mixed radices, of size `r0·r1·…`; `[2] * k` is the square dyadic chain.
#[pyfunction]
pub(crate) fn butterfly(radices: Vec<usize>) -> PyResult<Vec<Pattern>> {
    ChainPattern::butterfly(&radices).map(|chain| listed(&chain)).python()
}

/// The patterns that a text names for a `rows × cols` matrix: `monarch:p,q`, `square-dyadic`, `butterfly:r1,r2,…`,
/// `(a,b,c,d)(a,b,c,d)…`. ValueError says what does not fit.
#[pyfunction]
pub(crate) fn parse_chain(text: &str, rows: usize, cols: usize) -> PyResult<Vec<Pattern>> {
    let spec: ChainSpec = text.parse().python()?;
    spec.resolve(rows, cols).map(|chain| listed(&chain)).python()
}

/// All chainable chains of a `rows × cols` matrix with at most so many factors, parameters and rank, fewest parameters first.
#[pyfunction]
#[pyo3(signature = (rows, cols, *, max_factors = 2, max_parameters = None, max_rank = 1))]
pub(crate) fn enumerate_chains(
    py: Python<'_>,
    rows: usize,
    cols: usize,
    max_factors: usize,
    max_parameters: Option<usize>,
    max_rank: usize,
) -> Vec<Vec<Pattern>> {
    let most = max_parameters.unwrap_or(rows.saturating_mul(cols));
    let chains = py.detach(|| ChainPattern::enumerate(rows, cols, max_factors, most, max_rank));
    chains.iter().map(listed).collect()
}

/// Up to six chains of two factors with at most `budget · rows · cols` parameters, from few large blocks to many small ones:
/// what `kronsparse convert --budget` tries for a weight. `low_rank` says whether plain low rank may be among them.
#[pyfunction]
#[pyo3(signature = (rows, cols, budget, *, low_rank = true))]
pub(crate) fn budget_chains(
    py: Python<'_>,
    rows: usize,
    cols: usize,
    budget: f64,
    low_rank: bool,
) -> PyResult<Vec<Vec<Pattern>>> {
    let budget = Budget { share: budget, low_rank };
    budget.check().python()?;
    let chains = py.detach(|| budget.candidates(rows, cols));
    Ok(chains.iter().map(listed).collect())
}
