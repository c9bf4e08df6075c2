// What a benchmark needs to know of large arrays without moving them to the host: random contents, sums, a few vectors.
#pragma once
#include "epilogue.cuh"

namespace ks {

struct FillArgs {
  u64 to;     // `count` numbers
  i64 count;
  u64 seed;
};
// Numbers uniform in [-1, 1) with 24 random bits: SplitMix64 (Steele, Lea, Flood 2014), counted from `seed`.
template <class E, int THREADS> KS_DEVICE void fill(const FillArgs& args) {
  const i64 step = static_cast<i64>(grid_size()) * THREADS;
  for (i64 at = static_cast<i64>(block_index()) * THREADS + thread_index(); at < args.count; at += step) {
    u64 z = args.seed + (static_cast<u64>(at) + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    const float value = static_cast<float>(static_cast<u32>(z >> 40)) * 1.1920928955078125e-7f - 1.0f;
    E::store(reinterpret_cast<void*>(args.to), at, value);
  }
}

struct InspectArgs {
  u64 from;      // n vectors of `features` numbers
  u64 mix;       // n numbers u in f64; or the numbers of the vectors to pick, as i64
  u64 to;        // combine: f64 [slices][features][2]; pick: [picked][features] numbers
  i64 n;
  i64 features;
  i64 slices;    // parts of the batch that different blocks add up; pick: how many vectors
};

// For every feature Σ u·value and Σ value over a slice of the batch, in f64. A number that was never written is NaN, and so is its sum.
template <class E, Layout LAYOUT, int THREADS> KS_DEVICE void combine(const InspectArgs& args) {
  const void* const from = reinterpret_cast<const void*>(args.from);
  const double* const mix = reinterpret_cast<const double*>(args.mix);
  double* const to = reinterpret_cast<double*>(args.to);
  const i64 slice = block_index() % args.slices, group = block_index() / args.slices, thread = thread_index();
  const i64 begin = args.n * slice / args.slices, end = args.n * (slice + 1) / args.slices;
  double mixed = 0.0, plain = 0.0;
  if constexpr (LAYOUT == Layout::BatchFirst) {
    // One thread a feature.
    const i64 feature = group * THREADS + thread;
    if (feature >= args.features) return;
    _Pragma("unroll 8") for (i64 s = begin; s < end; ++s) {
      const double value = E::load(from, s * args.features + feature);
      mixed += mix[s] * value;
      plain += value;
    }
    to[(slice * args.features + feature) * 2] = mixed;
    to[(slice * args.features + feature) * 2 + 1] = plain;
  } else {
    // One block a feature.
    for (i64 s = begin + thread; s < end; s += THREADS) {
      const double value = E::load(from, group * args.n + s);
      mixed += mix[s] * value;
      plain += value;
    }
    double* const sums = reinterpret_cast<double*>(shared_memory());
    sums[thread] = mixed;
    sums[THREADS + thread] = plain;
    for (int half = THREADS / 2; half > 0; half /= 2) {
      sync_block();
      if (thread < half) {
        sums[thread] += sums[thread + half];
        sums[THREADS + thread] += sums[THREADS + thread + half];
      }
    }
    if (thread == 0) {
      to[(slice * args.features + group) * 2] = sums[0];
      to[(slice * args.features + group) * 2 + 1] = sums[THREADS];
    }
  }
}

// Copies the vectors named by `mix` side by side.
template <class E, Layout LAYOUT, int THREADS> KS_DEVICE void pick(const InspectArgs& args) {
  const i64 at = static_cast<i64>(block_index()) * THREADS + thread_index();
  if (at >= args.slices * args.features) return;
  const i64 s = reinterpret_cast<const i64*>(args.mix)[at / args.features], feature = at % args.features;
  const i64 place = LAYOUT == Layout::BatchFirst ? s * args.features + feature : feature * args.n + s;
  // To the wide type and back is exact.
  E::store(reinterpret_cast<void*>(args.to), at, E::load(reinterpret_cast<const void*>(args.from), place));
}

}  // namespace ks
