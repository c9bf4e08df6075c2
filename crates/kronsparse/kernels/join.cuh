// Outputs are joined in a pass of their own: a residual is added to them, or two of them become one, the activated first times the
// second. For algorithms and kernels that do not do it in their last store.
#pragma once
#include "epilogue.cuh"
#include "types.cuh"

namespace ks {

// x: what was multiplied, [n][OUTPUTS] or [OUTPUTS][n], twice as many features for a gate; y may be x for a residual. `WIDE`: 16 bytes at
// a time, which needs aligned arrays, and, for a gate batch-last, whole units of vectors.
template <class E, Layout LAYOUT, i64 OUTPUTS, Activation KIND, Join JOIN, bool WIDE, int TURNS, int THREADS> struct Joined {
  static constexpr int COUNT = WIDE ? 16 / Bytes<E>::value : 1;  // numbers at a time
  static_assert(JOIN != Join::None, "there is nothing to join");

  // Where the first number of a gate stands, and how far behind it the second one, for output number k.
  static KS_DEVICE i64 first_of(i64 k, i64 n) { return LAYOUT == Layout::BatchFirst ? 2 * k : k + k / n * n; }
  static KS_DEVICE i64 behind(i64 n) { return LAYOUT == Layout::BatchFirst ? 1 : n; }

  static KS_DEVICE void one(const Args& args, i64 k) {
    typename E::Sum result;
    if constexpr (JOIN == Join::Gate) {
      const i64 at = first_of(k, args.n);
      result = activate<KIND>(E::load(args.x, at)) * E::load(args.x, at + behind(args.n));
    } else {
      result = E::load(args.x, k) + E::load(args.residual, k);
    }
    E::store(args.y, k, result);
  }

  static KS_DEVICE const u8* bytes(const void* array, i64 at) { return static_cast<const u8*>(array) + at * Bytes<E>::value; }

  static KS_DEVICE void unit(const Args& args, i64 k) {
    float v[COUNT];
    if constexpr (JOIN == Join::Gate) {
      const i64 at = first_of(k, args.n);
      constexpr bool FIRST = LAYOUT == Layout::BatchFirst;
      const U4 low = load_global16(bytes(args.x, at)), high = load_global16(bytes(args.x, at + (FIRST ? COUNT : args.n)));
      KS_UNROLL
      for (int e = 0; e < COUNT; ++e) {
        const U4& from = FIRST && 2 * e >= COUNT ? high : low;
        const float gate = Pack<E>::at(from, FIRST ? 2 * e % COUNT : e), up = FIRST ? Pack<E>::at(from, (2 * e + 1) % COUNT) : Pack<E>::at(high, e);
        v[e] = activate<KIND>(gate) * up;
      }
    } else {
      const U4 x = load_global16(bytes(args.x, k)), residual = load_global16(bytes(args.residual, k));
      KS_UNROLL
      for (int e = 0; e < COUNT; ++e) v[e] = Pack<E>::at(x, e) + Pack<E>::at(residual, e);
    }
    store_global16(static_cast<u8*>(args.y) + k * Bytes<E>::value, Pack<E>::unit(v));
  }

  static KS_DEVICE void run(const Args& args) {
    let_next_begin();
    wait_for_previous();
    const i64 start = static_cast<i64>(block_index()) * (TURNS * THREADS), total = args.n * OUTPUTS;
    KS_UNROLL_BY(1)
    for (int turn = 0; turn < TURNS; ++turn) {
      const i64 k = (start + turn * THREADS + static_cast<i64>(thread_index())) * COUNT;
      if constexpr (WIDE) {
        if (k + COUNT <= total) unit(args, k);
        else for (i64 rest = k; rest < total; ++rest) one(args, rest);
      } else {
        if (k < total) one(args, k);
      }
    }
  }
};

}  // namespace ks
