// How the threads of a block share out the pieces of a tile, and how a piece of X gets to shared memory.
#pragma once
#include "ptx.cuh"

namespace ks {

// The largest power of two, at most 16, that divides `bytes`.
KS_DEVICE constexpr int vector_of(i64 bytes) { return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1; }
KS_DEVICE constexpr int smallest(int a, int b) { return a < b ? a : b; }
KS_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// One piece of X on its way to shared memory: VECTOR bytes, or zeros. Below 4 bytes there is no asynchronous copy.
template <int VECTOR> KS_DEVICE void copy_piece(u8* to, const u8* from, bool valid) {
  if constexpr (VECTOR >= 4) copy_async<VECTOR>(to, from, valid);
  else store_shared2(to, valid ? load_global2(from) : u16(0));
}

// Calls f(line, piece, more) for this thread's share of LINES × PIECES: piece `piece` of line `line + more`, where `more` is a
// constant of the unrolled loop, so that addresses differ by constants.
template <int THREADS, int LINES, int PIECES, class F> KS_DEVICE void share_pieces(int thread, F f) {
  constexpr int ALL = LINES * PIECES;
  if constexpr (THREADS % PIECES == 0 && LINES % (THREADS / PIECES) == 0 && ALL / THREADS <= 32) {
    const int line = thread / PIECES, piece = thread % PIECES;
    KS_UNROLL
    for (int k = 0; k < ALL / THREADS; ++k) f(line, piece, k * (THREADS / PIECES));
  } else if constexpr (ALL % THREADS == 0 && ALL / THREADS <= 32) {
    KS_UNROLL
    for (int k = 0; k < ALL / THREADS; ++k) f((thread + k * THREADS) / PIECES, (thread + k * THREADS) % PIECES, 0);
  } else {
    for (int u = thread; u < ALL; u += THREADS) f(u / PIECES, u % PIECES, 0);
  }
}

}  // namespace ks
