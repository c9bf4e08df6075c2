//! The one error type. Every message holds the numbers that failed and names what was expected.

use std::path::PathBuf;

/// What can go wrong when a chain is built, read, factorized or multiplied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pattern `(a, b, c, d)` has a zero, or describes more entries than 64 bits can index.
    #[error("pattern ({a},{b},{c},{d}): {why}")]
    Pattern {
        /// Number of diagonal super-blocks.
        a: usize,
        /// Output rows of a super-block.
        b: usize,
        /// Input columns of a super-block.
        c: usize,
        /// Lanes.
        d: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two neighbouring factors of a chain do not have matching sizes.
    #[error("factors {at} and {next} do not multiply: factor {at} {left} has {cols} columns, factor {next} {right} has {rows} rows", next = at + 1)]
    ChainSizes {
        /// Index of the left factor, counted from 0 in chain order.
        at: usize,
        /// The left pattern.
        left: crate::Pattern,
        /// The right pattern.
        right: crate::Pattern,
        /// Columns of the left factor.
        cols: usize,
        /// Rows of the right factor.
        rows: usize,
    },
    /// Two neighbouring factors multiply but are not chainable, so they can be neither factorized nor fused.
    #[error("factors {at} and {next} are not chainable: {left} then {right}: {why}", next = at + 1)]
    NotChainable {
        /// Index of the left factor, counted from 0 in chain order.
        at: usize,
        /// The left pattern.
        left: crate::Pattern,
        /// The right pattern.
        right: crate::Pattern,
        /// Which of the conditions `a1 | a2`, `d2 | d1`, `a1 c1 / a2 = b2 d2 / d1` fails, with its numbers.
        why: String,
    },
    /// A chain without factors.
    #[error("a chain needs at least one factor, found none")]
    EmptyChain,
    /// A slice or a matrix has another size than the operation needs.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// How many elements it must have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A matrix has another shape than the operation needs.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Which argument.
        what: String,
        /// The shape it must have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A dense matrix has a non-zero entry where the pattern has none.
    #[error("entry ({row}, {col}) = {value} lies outside the support of pattern {pattern}")]
    OffSupport {
        /// Row of the entry.
        row: usize,
        /// Column of the entry.
        col: usize,
        /// The entry, printed.
        value: String,
        /// The pattern it should fit.
        pattern: crate::Pattern,
    },
    /// Two operands have different patterns or shapes and the operation needs equal ones.
    #[error("{what}: {left} against {right}")]
    Mismatch {
        /// The operation.
        what: &'static str,
        /// The left operand's property.
        left: String,
        /// The right operand's property.
        right: String,
    },
    /// A text such as a pattern, a chain specification, a dtype or a layout that cannot be understood.
    #[error("cannot read {what} from `{text}`: {why}")]
    Parse {
        /// What the text should be.
        what: &'static str,
        /// The text.
        text: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// An algorithm or an option that this problem does not allow.
    #[error("{what} is not possible here: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had.
        why: String,
    },
    /// A shape that no chain suits which was asked for: what is asked is in order, and the dense matrix is what is left.
    #[error("there is no chain of {rows} × {cols} with {budget} of the parameters: {why}")]
    NoChain {
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// Shares of the dense parameters, as text.
        budget: String,
        /// What stands in the way, and what would help.
        why: String,
    },
    /// A computation that did not converge or met a value that it cannot handle (NaN, infinity).
    #[error("{what}: {why}")]
    Numerical {
        /// The computation.
        what: String,
        /// What happened.
        why: String,
    },
    /// The CUDA driver, one of its libraries, or a GPU that is missing or refuses.
    #[error("{what}: {why}")]
    Cuda {
        /// What was asked for: a call, a library, a GPU.
        what: String,
        /// The driver's name for what went wrong, or what is missing and where it was looked for.
        why: String,
    },
    /// A generated kernel that the CUDA compiler refuses.
    #[error("a generated kernel does not compile with {options:?}: {log}")]
    Compile {
        /// The compiler's options.
        options: Vec<String>,
        /// All that the compiler said.
        log: String,
        /// The source, without the embedded headers.
        code: String,
    },
    /// A file that is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and found; names the tensor where there is one.
        why: String,
    },
    /// A file that the operating system does not let us read or write.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `open`, `read`, `write` and the like.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Text out of a file as a part of a message: no line breaks or terminal codes, of bounded length.
pub(crate) fn in_one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
