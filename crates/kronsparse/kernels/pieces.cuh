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

// BYTES of shared memory as words, the last one filled up with zeros.
template <int BYTES> KS_DEVICE void take_words(u32* words, const u8* from) {
  if constexpr (BYTES == 16) {
    const U4 v = load_shared16(from);
    words[0] = v.v[0], words[1] = v.v[1], words[2] = v.v[2], words[3] = v.v[3];
  } else if constexpr (BYTES == 8) {
    const U2 v = load_shared8(from);
    words[0] = v.v[0], words[1] = v.v[1];
  } else if constexpr (BYTES == 4) {
    words[0] = load_shared4(from);
  } else {
    words[0] = load_shared2(from);
  }
}

// Calls f(line, piece, more) for this thread's share of LINES × PIECES: piece `piece` of line `line + more`. A thread keeps its
// line or its piece, so that its addresses differ by constants; a few are written out, many (or not `UNROLLED`) are a loop.
template <int THREADS, int LINES, int PIECES, bool UNROLLED, class F> KS_DEVICE void share_pieces(int thread, F f) {
  if constexpr (PIECES <= THREADS) {
    constexpr int TOGETHER = THREADS / PIECES, TURNS = ceil_div(LINES, TOGETHER);
    const int line = thread / PIECES, piece = thread % PIECES;
    if (THREADS % PIECES != 0 && line >= TOGETHER) return;
    if constexpr (UNROLLED && TURNS <= 16) {
      KS_UNROLL
      for (int k = 0; k < TURNS; ++k)
        if (LINES % TOGETHER == 0 || line + k * TOGETHER < LINES) f(line, piece, k * TOGETHER);
    } else {
      KS_UNROLL_BY(4)
      for (int more = 0; more < LINES - line; more += TOGETHER) f(line, piece, more);
    }
  } else {
    KS_UNROLL_BY(1)
    for (int piece = thread; piece < PIECES; piece += THREADS) {
      KS_UNROLL_BY(4)
      for (int more = 0; more < LINES; ++more) f(0, piece, more);
    }
  }
}

}  // namespace ks
