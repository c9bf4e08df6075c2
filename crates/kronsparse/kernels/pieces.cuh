// How the threads of a block share out the pieces of a tile, and how a piece of X gets to shared memory.
#pragma once
#include "ptx.cuh"

namespace ks {

// The largest power of two, at most 16, that divides `bytes`.
KS_DEVICE constexpr int vector_of(i64 bytes) { return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1; }
KS_DEVICE constexpr int smallest(int a, int b) { return a < b ? a : b; }
KS_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// One piece of X on its way to shared memory: VECTOR bytes, or zeros. Below 4 bytes there is no asynchronous copy: each is waited for, but
// takes one register only. Who has more of them left copies by `copy_pieces`.
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

// BYTES (4, 8 or 16) of global memory on their way to shared memory, at an address that is aligned to 2 bytes and not better: below
// 4 bytes there is no asynchronous copy. Words that are aligned are loaded as such; where the first one is cut in half, all are turned.
// `left` bytes are there, the others are zeros. What is loaded is not looked at before `words`, so that several wait together.
template <int BYTES> struct Ragged {
  static constexpr int WORDS = BYTES / 4;
  u32 word[WORDS], head, tail;
  int cut, end;

  KS_DEVICE void load(const u8* from, int left) {
    cut = static_cast<int>(reinterpret_cast<u64>(from) & 2);
    end = left < BYTES ? left : BYTES;
    KS_UNROLL
    for (int k = 0; k < WORDS; ++k) {
      word[k] = 0;
      if ((k > 0 || cut == 0) && 4 * k + 4 - cut <= end) word[k] = load_global4(from - cut + 4 * k);
    }
    head = tail = 0;
    if (cut != 0 && end > 0) head = load_global2(from);
    if ((end & 2) != cut && end > 0) tail = load_global2(from + end - 2);
  }
  KS_DEVICE U4 words() const {
    // Where the last half word belongs.
    const int last = (end + cut) / 4;
    U4 r = {};
    u32 now = word[0] | head << 16 | (last == 0 ? tail : 0);
    KS_UNROLL
    for (int k = 0; k < WORDS; ++k) {
      const u32 next = (k + 1 < WORDS ? word[k + 1 < WORDS ? k + 1 : 0] : 0) | (last == k + 1 ? tail : 0);
      r.v[k] = permute_bytes(now, next, cut != 0 ? 0x5432u : 0x3210u);
      now = next;
    }
    return r;
  }
};
// Two bytes are never cut.
template <> struct Ragged<2> {
  u32 word;
  KS_DEVICE void load(const u8* from, int left) { word = left > 0 ? load_global2(from) : u16(0); }
  KS_DEVICE U4 words() const { return {{word, 0, 0, 0}}; }
};

// The first BYTES of `words` to shared memory.
template <int BYTES> KS_DEVICE void put_words(u8* to, const U4& words) {
  if constexpr (BYTES == 16) store_shared16(to, words);
  else if constexpr (BYTES == 8) store_shared8(to, {{words.v[0], words.v[1]}});
  else if constexpr (BYTES == 4) store_shared4(to, words.v[0]);
  else store_shared2(to, static_cast<u16>(words.v[0]));
}

// As `share_pieces`, in two steps: `load(held, line, piece, more)` asks for what `store(held, line, piece, more)` puts away. GROUP pieces
// (or as many as a thread has) are asked for before the first is put away, and so wait together.
template <class Held, int GROUP, int THREADS, int LINES, int PIECES, class Load, class Store> KS_DEVICE void share_loads(int thread, Load load, Store store) {
  // A thread keeps its piece and goes from line to line, or its line and goes from piece to piece.
  constexpr bool KEEPS = PIECES <= THREADS;
  constexpr int TOGETHER = KEEPS ? THREADS / PIECES : THREADS, END = KEEPS ? LINES : PIECES, COUNT = smallest(GROUP, ceil_div(END, TOGETHER));
  constexpr bool WHOLE = END % (COUNT * TOGETHER) == 0;
  const int begin = KEEPS ? thread / PIECES : thread;
  if (KEEPS && THREADS % PIECES != 0 && begin >= TOGETHER) return;
  KS_UNROLL_BY(1)
  for (int line = 0; line < (KEEPS ? 1 : LINES); ++line) {
    KS_UNROLL_BY(1)
    for (int first = 0; first < END - begin; first += COUNT * TOGETHER) {
      Held held[COUNT];
      const auto each = [&](auto f) {
        KS_UNROLL
        for (int k = 0; k < COUNT; ++k) {
          const int more = first + k * TOGETHER;
          if (!WHOLE && more >= END - begin) continue;
          if constexpr (KEEPS) f(held[k], begin, thread % PIECES, more);
          else f(held[k], line, begin + more, 0);
        }
      };
      each(load);
      each(store);
    }
  }
}

// Where a piece goes, where it comes from, and how many of its bytes are there: less than one where there are none.
struct Piece {
  int to;
  i64 from;
  int left;
};
// Pieces of X that are copied at once where rows are aligned to ALIGN bytes, and RAGGED bytes are in a row where these are 2.
KS_DEVICE constexpr int piece_bytes(int align, int ragged) { return align >= 4 ? align : ragged; }
// Copies pieces of BYTES, of which ALIGN says how they are aligned in global memory; `at(line, piece, more)` is a `Piece`. Of ragged ones
// GROUP are under way at a time, each in eight registers or so.
template <int BYTES, int ALIGN, int GROUP, int THREADS, int LINES, int PIECES, bool UNROLLED, class F>
KS_DEVICE void copy_pieces(u8* to, const u8* from, int thread, F at) {
  if constexpr (ALIGN >= 4) {
    static_assert(BYTES == ALIGN, "one piece is one copy");
    share_pieces<THREADS, LINES, PIECES, UNROLLED>(thread, [&](int line, int piece, int more) {
      const Piece p = at(line, piece, more);
      copy_async<BYTES>(to + p.to, from + p.from, p.left > 0);
    });
  } else {
    share_loads<Ragged<BYTES>, BYTES == 2 ? 4 * GROUP : GROUP, THREADS, LINES, PIECES>(
        thread,
        [&](Ragged<BYTES>& held, int line, int piece, int more) {
          const Piece p = at(line, piece, more);
          held.load(from + p.from, p.left);
        },
        [&](const Ragged<BYTES>& held, int line, int piece, int more) { put_words<BYTES>(to + at(line, piece, more).to, held.words()); });
  }
}

}  // namespace ks
