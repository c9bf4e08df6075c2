// Bias and activation in a pass of their own over Y, in place: for algorithms whose product is a library's.
#pragma once
#include "epilogue.cuh"

namespace ks {

// y = activation(y + bias[row]) for `TURNS · THREADS` elements a block; `ROWS` features, batch-first [n][ROWS] or batch-last [ROWS][n].
// Every element is read by the one thread that writes it.
template <class E, Layout LAYOUT, i64 ROWS, bool BIAS, Activation ACTIVATION, int TURNS, int THREADS>
KS_DEVICE void finish_in_place(const Args& args) {
  const i64 run = LAYOUT == Layout::BatchFirst ? ROWS : args.n;  // a block's first element lies `within` this run
  const i64 start = static_cast<i64>(block_index()) * (TURNS * THREADS), run0 = start / run, within0 = start - run0 * run;
  KS_UNROLL for (int turn = 0; turn < TURNS; ++turn) {
    const i64 offset = turn * THREADS + static_cast<i64>(thread_index()), within = within0 + offset;
    if (start + offset < args.n * ROWS) {
      // A 32-bit division where the run is short; a long run is left at most once.
      const i64 further = within < run ? 0 : run > (1 << 24) ? 1 : static_cast<u32>(within) / static_cast<u32>(run);
      const i64 row = LAYOUT == Layout::BatchFirst ? within - further * run : run0 + further;
      E::store(args.y, start + offset, finish<E, ACTIVATION, BIAS>(E::load(args.y, start + offset), args.bias, row));
    }
  }
}

}  // namespace ks
