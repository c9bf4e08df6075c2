//! Between the caller's arrays and panels: the only place where the engine reorders numbers, in registers.

// Loops over vector blocks name their index, which is a lane, a row and an offset at once; only constant indices keep a
// block in registers.
#![allow(clippy::needless_range_loop)]

use super::element::Element;
use super::simd::{Real, Simd};
use crate::plan::{Activation, Layout};

/// A caller's array of `n` vectors of `features` elements.
#[derive(Clone, Copy)]
pub(super) struct View<T> {
    pub(super) data: *mut T,
    pub(super) n: usize,
    pub(super) features: usize,
    pub(super) layout: Layout,
    /// Whether to write past the caches where whole aligned vectors allow it.
    pub(super) stream: bool,
}

/// The batch entries `start .. start + count` that one panel holds; `count` may be less than its width.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    pub(super) start: usize,
    pub(super) count: usize,
}

/// Copies features `first .. first + len` of a batch into panel rows `row(0) … row(len − 1)`, zeros behind `count`.
///
/// # Safety
/// The instruction set of `S` is present, `view` is valid for reading those entries, `panel` has the rows.
#[inline(always)]
pub(super) unsafe fn load<S: Simd<Real = T::Real>, T: Element, const NV: usize>(
    view: View<T>,
    batch: Batch,
    first: usize,
    len: usize,
    panel: *mut S::Real,
    row: impl Fn(usize) -> usize,
) {
    let width = NV * S::LANES;
    let pitch = width * T::PLANES;
    // SAFETY: all offsets stay inside the entries and rows that the caller vouches for.
    unsafe {
        match view.layout {
            Layout::BatchLast => {
                for f in 0..len {
                    let source = view.data.add((first + f) * view.n + batch.start).cast_const();
                    let target = panel.add(row(f) * pitch);
                    for v in 0..NV {
                        let lane = v * S::LANES;
                        let count = batch.count.saturating_sub(lane).min(S::LANES);
                        let planes = T::load::<S>(source.wrapping_add(lane), count);
                        for (k, &plane) in planes.iter().enumerate().take(T::PLANES) {
                            S::store(target.add(k * width + lane), plane);
                        }
                    }
                }
            }
            Layout::BatchFirst => {
                // Sixteen vectors at a time along their features: rows whose distance is a power of two compete for
                // few cache sets, so a line is used up before the next ones are asked for.
                for v in 0..NV {
                    let lane = v * S::LANES;
                    let count = batch.count.saturating_sub(lane).min(S::LANES);
                    let start = view.data.wrapping_add((batch.start + lane) * view.features + first);
                    let mut f = 0;
                    while f < len {
                        let columns = if f == 0 { head::<S, T>(start, len) } else { (len - f).min(S::LANES) };
                        let source = (start.wrapping_add(f).cast_const(), view.features);
                        let target = |t: usize| panel.add(row(f + t) * pitch + lane);
                        // The whole block apart, so that its sixteen vectors stay in registers.
                        if columns == S::LANES && count == S::LANES {
                            load_block::<S, T>(source, S::LANES, S::LANES, width, target);
                        } else {
                            load_block::<S, T>(source, count, columns, width, target);
                        }
                        f += columns;
                    }
                }
            }
        }
    }
}

/// How many features of a run of `len` to take first, so that later blocks begin where vectors of memory begin and none
/// crosses a cache line. Short runs are not worth it.
#[inline(always)]
fn head<S: Simd<Real = T::Real>, T: Element>(start: *const T, len: usize) -> usize {
    let vector = S::LANES * size_of::<T>();
    let behind = start as usize % vector;
    if len < 4 * S::LANES || !behind.is_multiple_of(size_of::<T>()) || behind == 0 {
        len.min(S::LANES)
    } else {
        (vector - behind) / size_of::<T>()
    }
}

/// Turns `count` batch rows of `columns` features (`LANES` at most) into `columns` panel rows, `plane` numbers between
/// the planes of a row.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
unsafe fn load_block<S: Simd<Real = T::Real>, T: Element>(
    (source, stride): (*const T, usize),
    count: usize,
    columns: usize,
    plane: usize,
    target: impl Fn(usize) -> *mut S::Real,
) {
    // SAFETY: the caller's promise, entry by entry.
    unsafe {
        let mut blocks = [[S::splat(S::Real::default()); 16]; 2];
        for r in 0..S::LANES {
            if r < count {
                let planes = T::load::<S>(source.add(r * stride), columns);
                for k in 0..T::PLANES {
                    blocks[k][r] = planes[k];
                }
            }
        }
        for (k, block) in blocks.iter_mut().enumerate().take(T::PLANES) {
            S::transpose(block);
            for t in 0..S::LANES {
                if t < columns {
                    S::store(target(t).add(k * plane), block[t]);
                }
            }
        }
    }
}

/// Adds the bias, applies the activation, rounds, and stores panel rows `row(0) … row(len − 1)` as features
/// `first .. first + len` of a batch. Changes the panel.
///
/// # Safety
/// The instruction set of `S` is present, `view` is valid for writing those entries, `panel` has the rows.
#[inline(always)]
pub(super) unsafe fn store<S: Simd<Real = T::Real>, T: Element, const NV: usize>(
    view: View<T>,
    batch: Batch,
    first: usize,
    len: usize,
    panel: *mut S::Real,
    row: impl Fn(usize) -> usize,
    epilogue: &Epilogue<T::Real>,
) {
    let width = NV * S::LANES;
    let pitch = width * T::PLANES;
    // SAFETY: all offsets stay inside the entries and rows that the caller vouches for.
    unsafe {
        if !epilogue.is_identity() {
            for f in 0..len {
                let numbers = std::slice::from_raw_parts_mut(panel.add(row(f) * pitch), pitch);
                epilogue.apply(first + f, numbers, T::PLANES);
            }
        }
        match view.layout {
            Layout::BatchLast => {
                for f in 0..len {
                    let target = view.data.add((first + f) * view.n + batch.start);
                    let source = panel.add(row(f) * pitch).cast_const();
                    for v in 0..NV {
                        let lane = v * S::LANES;
                        let count = batch.count.saturating_sub(lane).min(S::LANES);
                        let imaginary = source.add((T::PLANES - 1) * width + lane);
                        let planes = [S::load(source.add(lane)), S::load(imaginary)];
                        T::store::<S>(target.wrapping_add(lane), planes, count);
                    }
                }
            }
            Layout::BatchFirst => {
                for v in 0..NV {
                    let lane = v * S::LANES;
                    let count = batch.count.saturating_sub(lane).min(S::LANES);
                    let start = view.data.wrapping_add((batch.start + lane) * view.features + first);
                    let mut f = 0;
                    while f < len {
                        let columns = if f == 0 { head::<S, T>(start, len) } else { (len - f).min(S::LANES) };
                        let target = (start.wrapping_add(f), view.features);
                        let source = |t: usize| panel.add(row(f + t) * pitch + lane).cast_const();
                        if columns == S::LANES && count == S::LANES {
                            let vector = size_of::<T>() * S::LANES;
                            let whole = (target.0 as usize | (view.features * size_of::<T>())).is_multiple_of(vector);
                            store_block::<S, T>(target, S::LANES, S::LANES, width, source, view.stream && whole);
                        } else {
                            store_block::<S, T>(target, count, columns, width, source, false);
                        }
                        f += columns;
                    }
                }
            }
        }
    }
}

/// Turns `columns` panel rows into `count` batch rows of `columns` features: the way back of [`load_block`]. `stream`
/// asks for stores past the caches, which whole aligned vectors allow.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
unsafe fn store_block<S: Simd<Real = T::Real>, T: Element>(
    (target, stride): (*mut T, usize),
    count: usize,
    columns: usize,
    plane: usize,
    source: impl Fn(usize) -> *const S::Real,
    stream: bool,
) {
    // SAFETY: the caller's promise, entry by entry.
    unsafe {
        let mut blocks = [[S::splat(S::Real::default()); 16]; 2];
        for (k, block) in blocks.iter_mut().enumerate().take(T::PLANES) {
            for t in 0..S::LANES {
                if t < columns {
                    block[t] = S::load(source(t).add(k * plane));
                }
            }
            S::transpose(block);
        }
        for r in 0..S::LANES {
            if r < count {
                let (p, planes) = (target.add(r * stride), [blocks[0][r], blocks[1][r]]);
                if stream { T::stream::<S>(p, planes) } else { T::store::<S>(p, planes, columns) }
            }
        }
    }
}

/// What happens to a sum before it is rounded and stored.
#[derive(Debug)]
pub(super) struct Epilogue<R> {
    /// One pair of planes per output feature.
    pub(super) bias: Option<Vec<[R; 2]>>,
    pub(super) activation: Activation,
}

impl<R: Real> Epilogue<R> {
    fn is_identity(&self) -> bool {
        self.bias.is_none() && self.activation == Activation::None
    }

    #[inline(always)]
    pub(super) fn apply(&self, feature: usize, numbers: &mut [R], planes: usize) {
        if let Some(bias) = &self.bias {
            let plane = numbers.len() / planes;
            for (numbers, &bias) in numbers.chunks_exact_mut(plane).zip(&bias[feature]) {
                numbers.iter_mut().for_each(|x| *x += bias);
            }
        }
        // One loop per activation, so that each vectorises without a branch inside.
        match self.activation {
            Activation::None => {}
            Activation::Relu => numbers.iter_mut().for_each(|x| *x = x.activate(Activation::Relu)),
            Activation::Gelu => numbers.iter_mut().for_each(|x| *x = x.activate(Activation::Gelu)),
            Activation::GeluTanh => numbers.iter_mut().for_each(|x| *x = x.activate(Activation::GeluTanh)),
            Activation::Silu => numbers.iter_mut().for_each(|x| *x = x.activate(Activation::Silu)),
        }
    }
}
