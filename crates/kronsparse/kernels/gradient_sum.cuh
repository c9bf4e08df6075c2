// Adds up the parts of a gradient of weights, in their order, and rounds the sum to the weights' type.
//
// `x`: the parts, f32 [PARTS][n]; `y`: n numbers of type E.
#pragma once
#include "args.cuh"
#include "types.cuh"

namespace ks {

// COUNT numbers of each part at a time, 4 or 1; `n` is a multiple of it.
template <class E, int PARTS, int COUNT, int THREADS> KS_DEVICE void gradient_sum(const Args& args) {
  const i64 k = (static_cast<i64>(block_index()) * THREADS + thread_index()) * COUNT;
  if (k >= args.n) return;
  const float* from = static_cast<const float*>(args.x) + k;
  float sum[COUNT] = {};
  KS_UNROLL_BY(4)
  for (int part = 0; part < PARTS; ++part, from += args.n) {
    if constexpr (COUNT == 4) {
      const U4 v = load_global16(from);
      KS_UNROLL
      for (int e = 0; e < 4; ++e) sum[e] += float_of(v.v[e]);
    } else {
      sum[0] += float_of(load_global4(from));
    }
  }
  if constexpr (COUNT == 4 && Bytes<E>::value == 2)
    store_global8(static_cast<u16*>(args.y) + k, {{Pair<E>::pack(sum[0], sum[1]), Pair<E>::pack(sum[2], sum[3])}});
  else if constexpr (COUNT == 4)
    store_global16(static_cast<float*>(args.y) + k, {{bits(sum[0]), bits(sum[1]), bits(sum[2]), bits(sum[3])}});
  else
    E::store(args.y, k, sum[0]);
}

}  // namespace ks
