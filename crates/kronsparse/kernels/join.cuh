// Outputs are joined in a pass of their own: a residual is added to them, or two of them become one, the activated first times the
// second, for algorithms and kernels that do not do it in their last store. Or numbers of one type become numbers of another.
#pragma once
#include "epilogue.cuh"
#include "types.cuh"

namespace ks {

// x: what was multiplied, of type From, [n][OUTPUTS] or [OUTPUTS][n], twice as many features for a gate; y and the residual are of type E.
// y may be x where the types are one and there is no gate. `WIDE`: 16 bytes of y at a time, which needs aligned arrays, and, for a gate
// batch-last, whole units of vectors.
template <class From, class E, Layout LAYOUT, i64 OUTPUTS, Activation KIND, Join JOIN, bool WIDE, int TURNS, int THREADS> struct Joined {
  static constexpr int COUNT = WIDE ? 16 / Bytes<E>::value : 1;  // numbers at a time
  static constexpr bool SAME = IsSame<From, E>::value;
  static_assert(JOIN != Join::None || !SAME, "there is nothing to do");
  static_assert(JOIN != Join::Gate || SAME, "gates are joined in one type");

  // Where the first number of a gate stands, and how far behind it the second one, for output number k.
  static KS_DEVICE i64 first_of(i64 k, i64 n) { return LAYOUT == Layout::BatchFirst ? 2 * k : k + k / n * n; }
  static KS_DEVICE i64 behind(i64 n) { return LAYOUT == Layout::BatchFirst ? 1 : n; }

  static KS_DEVICE void one(const Args& args, i64 k) {
    typename E::Sum result;
    if constexpr (JOIN == Join::Gate) {
      const i64 at = first_of(k, args.n);
      result = activate<KIND>(E::load(args.x, at)) * E::load(args.x, at + behind(args.n));
    } else {
      result = From::load(args.x, k);
      if constexpr (JOIN == Join::Residual) result += E::load(args.residual, k);
    }
    E::store(args.y, k, result);
  }

  static KS_DEVICE const u8* bytes(const void* array, i64 at) { return static_cast<const u8*>(array) + at * Bytes<E>::value; }

  // COUNT numbers of x from number `k` on: 8, 16 or 32 bytes.
  static KS_DEVICE void take(float (&v)[COUNT], const Args& args, i64 k) {
    constexpr int SIZE = Bytes<From>::value, UNIT = 16 / SIZE;
    const u8* from = static_cast<const u8*>(args.x) + k * SIZE;
    KS_UNROLL
    for (int first = 0; first < COUNT; first += UNIT) {
      U4 unit = {};
      if constexpr (COUNT * SIZE == 8) {
        const U2 half = load_global8(from);
        unit.v[0] = half.v[0], unit.v[1] = half.v[1];
      } else {
        unit = load_global16(from + first * SIZE);
      }
      KS_UNROLL
      for (int e = 0; e < UNIT && e < COUNT; ++e) v[first + e] = Pack<From>::at(unit, e);
    }
  }

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
      take(v, args, k);
      if constexpr (JOIN == Join::Residual) {
        const U4 residual = load_global16(bytes(args.residual, k));
        KS_UNROLL
        for (int e = 0; e < COUNT; ++e) v[e] += Pack<E>::at(residual, e);
      }
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
