// Sums over the batch: the gradient of a bias. Every block sums some columns of a part of the batch.
//
// `x`: n vectors of COLUMNS numbers of type E, batch-first; `y`: the parts, f32 [PARTS][COLUMNS], which gradient_sum.cuh adds up.
#pragma once
#include "args.cuh"
#include "types.cuh"

namespace ks {

// COUNT columns a thread: 16 bytes, or one number.
template <class E, int COLUMNS, int PARTS, int COUNT, int THREADS> KS_DEVICE void column_sum(const Args& args) {
  constexpr int BLOCKS = (COLUMNS + COUNT * THREADS - 1) / (COUNT * THREADS);
  static_assert(COLUMNS % COUNT == 0, "a thread has whole columns");
  const i64 column = (static_cast<i64>(block_index() % BLOCKS) * THREADS + thread_index()) * COUNT;
  if (column >= COLUMNS) return;
  const i64 part = block_index() / BLOCKS, share = (args.n + PARTS - 1) / PARTS;
  const i64 begin = part * share, end = begin + share < args.n ? begin + share : args.n;
  float sum[COUNT] = {};
  KS_UNROLL_BY(8)
  for (i64 row = begin; row < end; ++row) {
    if constexpr (COUNT > 1) {
      const U4 unit = load_global16(static_cast<const u8*>(args.x) + (row * COLUMNS + column) * Bytes<E>::value);
      KS_UNROLL
      for (int k = 0; k < COUNT; ++k) sum[k] += Pack<E>::at(unit, k);
    } else {
      sum[0] += E::load(args.x, row * COLUMNS + column);
    }
  }
  float* to = static_cast<float*>(args.y) + part * COLUMNS + column;
  KS_UNROLL
  for (int k = 0; k < COUNT; ++k) store_global4(to + k, bits(sum[k]));
}

}  // namespace ks
