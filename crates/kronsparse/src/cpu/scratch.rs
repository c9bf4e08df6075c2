//! Working memory, aligned to cache lines, that a caller may keep between multiplications.

use super::simd::Real;

/// Working memory of [`Operator::apply_with`](super::Operator::apply_with); grows when an operator asks for more.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Scratch {
    /// At least `bytes` bytes: what [`Operator::apply_scratch`](super::Operator::apply_scratch) says.
    pub fn new(bytes: usize) -> Scratch {
        let mut scratch = Scratch::default();
        scratch.grow(bytes);
        scratch
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// `bytes` bytes as numbers; allocates only if fewer are held. The contents are whatever was left there.
    pub(super) fn numbers<R: Real>(&mut self, bytes: usize) -> &mut [R] {
        self.grow(bytes);
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    fn grow(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
    }
}
