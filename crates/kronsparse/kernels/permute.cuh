// Swaps two neighbouring dimensions of an array in memory, for the algorithms that permute before and after a library's product:
// batch-first [n][a][P][Q] -> [n][a][Q][P], optionally from or to [a][·][n][·]; batch-last [a][P][Q][n] -> [a][Q][P][n].
#pragma once
#include "args.cuh"

namespace ks {

// `V` elements of `BYTES` bytes, moved between global memory and registers in one access.
template <int BYTES, int V> struct Elements {
  static constexpr int size = BYTES * V;
  static_assert(size == 2 || size == 4 || size == 8 || size == 16, "one access moves 2, 4, 8 or 16 bytes");
  u32 w[(size + 3) / 4];

  static KS_DEVICE Elements load(const u8* p) {
    Elements r;
    if constexpr (size == 16) {
      const U4 v = load_constant16(p);
      r.w[0] = v.v[0]; r.w[1] = v.v[1]; r.w[2] = v.v[2]; r.w[3] = v.v[3];
    } else if constexpr (size == 8) {
      const U2 v = load_constant8(p);
      r.w[0] = v.v[0]; r.w[1] = v.v[1];
    } else if constexpr (size == 4) {
      r.w[0] = load_constant4(p);
    } else {
      r.w[0] = load_constant2(p);
    }
    return r;
  }
  static KS_DEVICE void store(u8* p, const Elements& r) {
    if constexpr (size == 16) store_global16(p, U4{{r.w[0], r.w[1], r.w[2], r.w[3]}});
    else if constexpr (size == 8) store_global8(p, U2{{r.w[0], r.w[1]}});
    else if constexpr (size == 4) store_global4(p, r.w[0]);
    else store_global2(p, static_cast<u16>(r.w[0]));
  }
  // Element `e` to shared memory, and from there.
  template <int E> static KS_DEVICE void spill(u8* p, const Elements& r) {
    if constexpr (BYTES == 2) store_shared2(p, static_cast<u16>(r.w[E / 2] >> (E % 2 * 16)));
    else if constexpr (BYTES == 4) store_shared4(p, r.w[E]);
    else store_shared8(p, U2{{r.w[2 * E], r.w[2 * E + 1]}});
  }
  template <int E> static KS_DEVICE void fill(Elements& r, const u8* p) {
    if constexpr (BYTES == 2) {
      const u32 half = load_shared2(p);
      if constexpr (E % 2 == 0) r.w[E / 2] = half;
      else r.w[E / 2] |= half << 16;
    } else if constexpr (BYTES == 4) {
      r.w[E] = load_shared4(p);
    } else {
      const U2 v = load_shared8(p);
      r.w[2 * E] = v.v[0];
      r.w[2 * E + 1] = v.v[1];
    }
  }
  // All elements, `step` bytes apart in shared memory.
  template <int E = 0> static KS_DEVICE void spill_all(u8* p, int step, const Elements& r) {
    if constexpr (E < V) {
      spill<E>(p, r);
      spill_all<E + 1>(p + step, step, r);
    }
  }
  template <int E = 0> static KS_DEVICE void fill_all(Elements& r, const u8* p, int step) {
    if constexpr (E < V) {
      fill<E>(r, p);
      fill_all<E + 1>(r, p + step, step);
    }
  }
};

// Batch-first. A block moves `TILE_O` of the n·A matrices, `TILE_P × TILE_Q` elements of each, through shared memory. `V_IN`
// divides Q and TILE_Q, `V_OUT` divides P and TILE_P. FROM_BLOCKS: the input is [a][P][n][Q]; TO_BLOCKS: the output is [a][Q][n][P].
// Rows of the tile have an odd number of elements, so that neither direction meets one bank twice.
template <int BYTES, int A, int P, int Q, int TILE_O, int TILE_P, int TILE_Q, int V_IN, int V_OUT, bool FROM_BLOCKS, bool TO_BLOCKS, int THREADS>
KS_DEVICE void permute_lanes(const Args& args) {
  static_assert(Q % V_IN == 0 && TILE_Q % V_IN == 0 && P % V_OUT == 0 && TILE_P % V_OUT == 0, "an access stays inside a row");
  constexpr int TILES_P = (P + TILE_P - 1) / TILE_P, TILES_Q = (Q + TILE_Q - 1) / TILE_Q, ROW = TILE_Q | 1;
  using In = Elements<BYTES, V_IN>;
  using Out = Elements<BYTES, V_OUT>;
  constexpr int IN_ROW = TILE_Q / V_IN, IN = TILE_O * TILE_P * IN_ROW, IN_TURNS = (IN + THREADS - 1) / THREADS;
  constexpr int OUT_ROW = TILE_P / V_OUT, OUT = TILE_O * TILE_Q * OUT_ROW, OUT_TURNS = (OUT + THREADS - 1) / THREADS;
  const u8* const from = static_cast<const u8*>(args.x);
  u8* const to = static_cast<u8*>(args.y);
  u8* const tile = shared_memory();
  const i64 matrices = args.n * A;
  const int block = static_cast<int>(block_index()), thread = static_cast<int>(thread_index());
  const int q0 = block % TILES_Q * TILE_Q, p0 = block / TILES_Q % TILES_P * TILE_P;
  const i64 first = static_cast<i64>(block / (TILES_Q * TILES_P)) * TILE_O;

  // A few loads of a thread are under way at once; more would only take registers.
  constexpr int AT_ONCE = IN_TURNS < 8 ? IN_TURNS : 8;
  for (int begin = 0; begin < IN_TURNS; begin += AT_ONCE) {
    In loaded[AT_ONCE];
    KS_UNROLL for (int turn = 0; turn < AT_ONCE; ++turn) {
      const int unit = (begin + turn) * THREADS + thread, q = q0 + unit % IN_ROW * V_IN, p = p0 + unit / IN_ROW % TILE_P;
      const i64 matrix = first + unit / (IN_ROW * TILE_P);
      if (unit < IN && matrix < matrices && p < P && q < Q) {
        const i64 at = FROM_BLOCKS ? ((matrix % A * P + p) * args.n + matrix / A) * Q + q : (matrix * P + p) * Q + q;
        loaded[turn] = In::load(from + at * BYTES);
      }
    }
    KS_UNROLL for (int turn = 0; turn < AT_ONCE; ++turn) {
      const int unit = (begin + turn) * THREADS + thread, q = unit % IN_ROW * V_IN, p = unit / IN_ROW % TILE_P;
      const int o = unit / (IN_ROW * TILE_P);
      if (unit < IN && first + o < matrices && p0 + p < P && q0 + q < Q)
        In::spill_all(tile + ((o * TILE_P + p) * ROW + q) * BYTES, BYTES, loaded[turn]);
    }
  }
  sync_block();
  for (int turn = 0; turn < OUT_TURNS; ++turn) {
    const int unit = turn * THREADS + thread, p = unit % OUT_ROW * V_OUT, q = unit / OUT_ROW % TILE_Q, o = unit / (OUT_ROW * TILE_Q);
    const i64 matrix = first + o;
    if (unit < OUT && matrix < matrices && p0 + p < P && q0 + q < Q) {
      Out stored;
      Out::fill_all(stored, tile + ((o * TILE_P + p) * ROW + q) * BYTES, ROW * BYTES);
      const i64 at = TO_BLOCKS ? ((matrix % A * Q + q0 + q) * args.n + matrix / A) * P + p0 + p : (matrix * Q + q0 + q) * P + p0 + p;
      Out::store(to + at * BYTES, stored);
    }
  }
}

// Batch-last: whole rows of n elements move, `VECTOR` bytes an access; it divides the bytes of a row.
template <int BYTES, int VECTOR, int A, int P, int Q, int THREADS>
KS_DEVICE void permute_rows(const Args& args) {
  constexpr int TURNS = 4;
  using Unit = Elements<VECTOR == 16 ? 8 : VECTOR, VECTOR == 16 ? 2 : 1>;
  const u8* const from = static_cast<const u8*>(args.x);
  u8* const to = static_cast<u8*>(args.y);
  const i64 units = args.n * BYTES / VECTOR;  // in a row
  const i64 start = static_cast<i64>(block_index()) * (TURNS * THREADS), row0 = start / units, within0 = start - row0 * units;
  const int thread = static_cast<int>(thread_index());
  Unit loaded[TURNS];
  i64 target[TURNS];
  KS_UNROLL for (int turn = 0; turn < TURNS; ++turn) {
    const i64 within = within0 + turn * THREADS + thread;
    // A 32-bit division where the row is short; a long row is left at most once.
    const i64 further = within < units ? 0 : units > (1 << 24) ? 1 : static_cast<u32>(within) / static_cast<u32>(units);
    const i64 row = row0 + further, column = within - further * units;
    target[turn] = -1;
    if (row < static_cast<i64>(A) * P * Q) {
      const i64 q = row % Q, p = row / Q % P, i = row / (static_cast<i64>(P) * Q);
      target[turn] = (((i * Q + q) * P + p) * units + column) * VECTOR;
      loaded[turn] = Unit::load(from + (row * units + column) * VECTOR);
    }
  }
  KS_UNROLL for (int turn = 0; turn < TURNS; ++turn)
    if (target[turn] >= 0) Unit::store(to + target[turn], loaded[turn]);
}

}  // namespace ks
