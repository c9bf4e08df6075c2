//! What a kernel's copy engine is told of an array, without an address: the engine encodes it at launch.

/// Which of the two arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The input.
    X,
    /// The output.
    Y,
}

/// How 16-byte pieces of a row are interleaved in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

/// A view of `X` or `Y` with four dimensions, innermost first, of the problem's element type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// Which array.
    pub operand: Operand,
    /// Elements along each dimension.
    pub dims: [u64; 4],
    /// Bytes from one element to the next along dimensions 1, 2 and 3; multiples of 16.
    pub strides: [u64; 3],
    /// Elements of a box along each dimension, 1…256.
    pub boxed: [u32; 4],
    /// Order within shared memory.
    pub swizzle: Swizzle,
}
