// Weights from the order in which they are learned to the order in which a kernel reads them: number k goes to `places[k]`, as it is,
// rounded to TF32, or in two TF32 parts. What no weight goes to is zero already.
//
// `x`: n weights of type E; `w`: n places, u32; `y`: the packed weights.
#pragma once
#include "args.cuh"
#include "types.cuh"

namespace ks {

enum class Parts { Whole, Tf32, HighLow };

// LOW_AFTER: how many numbers behind the high part the low one stands.
template <class E, Parts PARTS, i64 LOW_AFTER, int THREADS> KS_DEVICE void pack_weights(const Args& args) {
  const i64 k = static_cast<i64>(block_index()) * THREADS + thread_index();
  if (k >= args.n) return;
  const i64 place = load_constant4(static_cast<const u32*>(args.w) + k);
  const typename E::Sum value = E::load(args.x, k);
  if constexpr (PARTS == Parts::Whole) {
    E::store(args.y, place, value);
  } else {
    const float high = float_of(round_tf32(value));
    if constexpr (PARTS == Parts::Tf32) {
      E::store(args.y, place, high);
    } else {
      // What is not finite goes into the low part alone, as on the host.
      const bool finite = (bits(high) & 0x7f800000u) != 0x7f800000u;
      E::store(args.y, place, finite ? high : 0.f);
      E::store(args.y, place + LOW_AFTER, finite ? float_of(round_tf32(value - high)) : value);
    }
  }
}

}  // namespace ks
