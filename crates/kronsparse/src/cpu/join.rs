//! Outputs joined after the multiplication: a residual added, or two outputs made one by a gate. A pass over `Y` of its own.

use rayon::prelude::*;

use super::element::{Compute, Element};
use crate::{Activation, Layout};

/// Elements below which a thread is not worth waking up.
const LEAST: usize = 1 << 14;

/// Elements of each of `threads` threads.
fn piece(len: usize, threads: usize) -> usize {
    len.div_ceil(threads.max(1)).max(LEAST)
}

/// `y += residual`.
pub(super) fn add<T: Element>(y: &mut [T], residual: &[T], threads: usize) {
    let add = |(y, residual): (&mut [T], &[T])| {
        for (y, &r) in y.iter_mut().zip(residual) {
            *y = T::from_compute(y.widen_compute() + r.widen_compute());
        }
    };
    let piece = piece(y.len(), threads);
    if y.len() <= piece {
        add((y, residual));
    } else {
        y.par_chunks_mut(piece).zip(residual.par_chunks(piece)).for_each(add);
    }
}

/// `y[r] = activation(v[2r]) · v[2r + 1]` for every vector: `v` has twice as many features as `y`, both in `layout`.
pub(super) fn gate<T: Element>(v: &[T], y: &mut [T], n: usize, layout: Layout, activation: Activation, threads: usize) {
    let join = |gate: T, up: T| T::from_compute(gate.widen_compute().activate(activation) * up.widen_compute());
    let length = piece(y.len(), threads);
    // A piece of Y with where it begins.
    let piece = |(at, y): (usize, &mut [T])| {
        let start = at * length;
        match layout {
            Layout::BatchFirst => {
                for (y, pair) in y.iter_mut().zip(v[2 * start..].chunks_exact(2)) {
                    *y = join(pair[0], pair[1]);
                }
            }
            Layout::BatchLast => {
                let mut done = 0;
                while done < y.len() {
                    // What is left of a row of n numbers.
                    let (row, from) = ((start + done) / n, (start + done) % n);
                    let count = (n - from).min(y.len() - done);
                    let (gates, ups) = (&v[2 * row * n + from..][..count], &v[(2 * row + 1) * n + from..][..count]);
                    for ((y, &gate), &up) in y[done..done + count].iter_mut().zip(gates).zip(ups) {
                        *y = join(gate, up);
                    }
                    done += count;
                }
            }
        }
    };
    if y.len() <= length {
        piece((0, y));
    } else {
        y.par_chunks_mut(length).enumerate().for_each(piece);
    }
}
