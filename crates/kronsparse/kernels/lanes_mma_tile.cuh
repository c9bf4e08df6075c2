// The geometry of lanes_mma: every number that follows from the type, the pattern and the tile, and where things lie in shared
// memory. No instruction here, only constants; plan/gpu/lanes_mma.rs computes the same ones, and the total is asserted.
#pragma once
#include "mma_number.cuh"

namespace ks {

// Which chunk of which tile goes to which stage of the ring.
template <int STAGES, int CHUNKS> struct RingWalk {
  i64 item;
  int chunk, slot;
  KS_DEVICE void go_on(i64 stride) {
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    if (++chunk == CHUNKS) chunk = 0, item += stride;
  }
};

// `least` doubled until that many times `bytes` are a multiple of 16, within `most`, of which it stays a divisor.
KS_DEVICE constexpr int doublings_to_16(int least, int most, int bytes) {
  int k = least;
  while (most % (2 * k) == 0 && k * bytes % 16 != 0) k *= 2;
  return k;
}
// How often the banks of shared memory must be asked for one access of a warp, where thread 4g+q takes `width` bytes at
// g·by_g + q·by_q: the busiest bank, summed over the groups of threads that are served together.
KS_DEVICE constexpr int bank_turns(int width, int by_g, int by_q) {
  const int together = width == 16 ? 8 : width == 8 ? 16 : 32, words = width < 4 ? 1 : width / 4;
  int turns = 0;
  for (int first = 0; first < 32; first += together) {
    int seen[128] = {}, count[32] = {}, found = 0, busiest = 0;
    for (int t = first; t < first + together; ++t)
      for (int w = 0; w < words; ++w) {
        const int word = (t / 4 * by_g + t % 4 * by_q) / 4 + w;
        bool known = false;
        for (int k = 0; k < found; ++k) known = known || seen[k] == word;
        if (known) continue;
        seen[found++] = word;
        if (++count[word % 32] > busiest) busiest = count[word % 32];
      }
    turns += busiest;
  }
  return turns;
}
// Bytes from one row to the next: `raw` rounded up to 16, and as many further 16 bytes as spare the most turns.
KS_DEVICE constexpr int row_stride(int raw, int width, int by_q) {
  const int least = ceil_div(raw, 16) * 16;
  int best = least;
  for (int pad = 16; pad < 128; pad += 16)
    if (bank_turns(width, least + pad, by_q) < bank_turns(width, best, by_q)) best = least + pad;
  return best;
}

// One instantiation: number type, layout, pattern, tile. ROWS vectors × LANES lanes × OUTS outputs per block, DEPTH terms per
// stage of the ring; WARPS_R × WARPS_J × WARPS_O warps share them out. RESIDENT: the weights stay in shared memory. REGROUP:
// outputs go through shared memory, so that a warp stores long runs. ALIGN: bytes to which X and Y are aligned.
template <class Number, bool LAST, int A, int B, int C, int D, int ROWS, int LANES, int OUTS, int DEPTH, int STAGES, int WARPS_R, int WARPS_J,
          int WARPS_O, bool RESIDENT, bool REGROUP, int ALIGN>
struct MmaTile {
  static constexpr int E = Number::BYTES, STEP = Number::STEP, OWN = Number::OWN;
  static constexpr int THREADS = 32 * WARPS_R * WARPS_J * WARPS_O;
  // A warp's share.
  static constexpr int WARP_ROWS = ROWS / WARPS_R, WARP_LANES = LANES / WARPS_J, WARP_OUTS = OUTS / WARPS_O;
  static_assert(ROWS % WARPS_R == 0 && LANES % WARPS_J == 0 && OUTS % (16 * WARPS_O) == 0, "the warps share the tile evenly, 16 outputs at a time");
  static_assert(STAGES >= 2, "a ring has two stages at least");

  // How a row of X lies in shared memory. Whole: all d lanes, as in global memory, and a thread takes runs of PAIRED terms × d
  // lanes. Gather: likewise, but a warp takes some of the lanes. Split: units of UNIT bytes, lanes of one term, ordered so that
  // the four threads of a quad read neighbours. Last: a line per (j, l), units of consecutive vectors.
  static constexpr bool WHOLE = !LAST && WARP_LANES == D && LANES == D && (D * E) % 16 != 0;
  static constexpr bool SPLIT = !LAST && !WHOLE && ((D * E) % 8 == 0 || LANES < D);
  static constexpr bool GATHER = !LAST && !WHOLE && !SPLIT;
  // Terms that a thread takes at once (a group of steps), of which PAIRED are neighbours in memory.
  static constexpr int TERMS = WHOLE && D == 1 ? 2 * OWN : OWN, GROUP = 4 * TERMS, STEPS = TERMS / OWN;
  static constexpr int PAIRED = WHOLE ? doublings_to_16(1, TERMS, D * E) : 1;
  static_assert(DEPTH % GROUP == 0, "a stage holds whole groups of steps");
  // The term that thread q holds in its place `e` of a group.
  static KS_DEVICE constexpr int term(int q, int e) { return e / PAIRED * 4 * PAIRED + q * PAIRED + e % PAIRED; }

  // Bytes of one shared load.
  static constexpr int UNIT = LAST ? 16 : WHOLE ? vector_of(i64(PAIRED) * D * E) : SPLIT ? smallest(16, vector_of(i64(WARP_LANES) * E)) : smallest(vector_of(i64(D) * E), vector_of(i64(WARP_LANES) * E));
  static_assert(!SPLIT || UNIT >= 8, "a warp's lanes fill units of 8 or 16 bytes");
  static_assert(SPLIT || LAST || LANES >= D, "the lanes are all in one tile");
  static constexpr int UNIT_NUMBERS = UNIT / E;
  // Split: units of one term in the tile, and in a warp's share.
  static constexpr int UNITS = LANES * E / UNIT, WARP_UNITS = WARP_LANES * E / UNIT;

  static constexpr int LINES = LAST ? DEPTH * LANES : ROWS;
  static constexpr int LINE_BYTES = LAST ? ROWS * E : SPLIT ? DEPTH * LANES * E : DEPTH * D * E;
  static_assert(!LAST || LINE_BYTES % 128 == 0, "a line of vectors is whole 128-byte rows of banks");
  // Split: the four units of a quad fill 64 (32) bytes; two (four) neighbouring rows take turns in a 128-byte row of banks, by
  // xor on the lane unit with SWAP_UNITS of the row's low bits, and on the term with the others.
  static constexpr int TURNS = 32 / UNIT;
  static constexpr int SWAP_UNITS = SPLIT ? UNITS % TURNS == 0 ? TURNS : UNITS % 2 == 0 ? 2 : 1 : 1;
  static constexpr bool SWAPPED = SPLIT && LINE_BYTES % 128 == 0 && TURNS / SWAP_UNITS <= TERMS;
  static KS_DEVICE constexpr int swap_unit(int row, int unit) { return SWAPPED ? unit ^ (row & (SWAP_UNITS - 1)) : unit; }
  static KS_DEVICE constexpr int swap_term(int row, int e) { return SWAPPED ? e ^ (row % TURNS / SWAP_UNITS) : e; }
  static constexpr int STRIDE = LAST || SWAPPED ? LINE_BYTES : row_stride(LINE_BYTES, UNIT, WHOLE ? PAIRED * D * E : SPLIT ? UNIT : D * E);
  static constexpr int X_BYTES = LINES * STRIDE;

  // Fragments. A warp has TILES of 16 rows per lane; batch-last, a unit's vectors are the rows of UNIT_NUMBERS / 2 tiles.
  static constexpr int TILES = WARP_ROWS / 16;
  static_assert(LAST ? WARP_ROWS % (8 * 16 / E) == 0 : WARP_ROWS % 16 == 0, "a warp's rows are whole fragments");
  static constexpr int LAST_TILES = 16 / E / 2, LAST_SETS = WARP_ROWS / (8 * 16 / E);
  static constexpr int COLUMNS = WARP_OUTS / 8;  // 8 outputs each
  static constexpr int FRAGMENT = 512;           // bytes of weights: one step, one lane, 16 outputs
  static constexpr int W_STEP = LANES * (OUTS / 16) * FRAGMENT;
  static constexpr int CHUNKS = ceil_div(C, DEPTH), CHUNK_STEPS = DEPTH / STEP;
  static constexpr int W_CHUNK = CHUNK_STEPS * W_STEP, W_TILE = CHUNKS * W_CHUNK;

  // Which output is column x of a warp's column group u. Threads hold columns 2q and 2q+1; where lanes are few, a thread's
  // outputs are made neighbours, RUN of them, so that it stores 16 bytes at once.
  static constexpr int RUN = WHOLE ? doublings_to_16(2, WARP_OUTS / 4, D * E) : 2;
  static KS_DEVICE constexpr int output(int u, int q, int x) { return u * 2 / RUN * 4 * RUN + q * RUN + u * 2 % RUN + x; }

  // The grid's order: outputs innermost, then lanes, super-blocks, rows.
  static constexpr int LANE_TILES = ceil_div(D, LANES), OUT_TILES = ceil_div(B, OUTS);
  static constexpr i64 GROUPS = i64(A) * LANE_TILES * OUT_TILES;

  // Regrouping: [row][output][lane], one column group of every warp at a time, two buffers.
  static constexpr int OUT_STRIDE = ceil_div(LANES * E, 16) * 16;
  static constexpr int REGROUP_OUTS = 8 * WARPS_O;
  static constexpr int REGROUP_STRIDE = row_stride(REGROUP_OUTS * OUT_STRIDE, UNIT, 2 * OUT_STRIDE);
  static constexpr int REGROUP_BYTES = ROWS * REGROUP_STRIDE;
  static_assert(!REGROUP || SPLIT, "only units of lanes are regrouped");

  static constexpr int STAGE_BYTES = X_BYTES + (RESIDENT ? 0 : W_CHUNK);
  static constexpr int W_OFFSET = STAGES * STAGE_BYTES;
  static constexpr int REGROUP_OFFSET = W_OFFSET + (RESIDENT ? W_TILE : 0);
  static constexpr int SHARED = REGROUP_OFFSET + (REGROUP ? 2 * REGROUP_BYTES : 0);

  // Widest copies and stores that the addresses allow. Batch-last rows depend on n: the kernel asks at run time.
  static constexpr int X_VECTOR = smallest(ALIGN, LAST ? 16 : SPLIT ? smallest(UNIT, smallest(vector_of(i64(D) * E), vector_of(i64(LANES) * E))) : vector_of(i64(C) * D * E));
  static constexpr int RUN_VECTOR = smallest(ALIGN, WHOLE ? smallest(vector_of(i64(RUN) * D * E), vector_of(i64(B) * D * E)) : smallest(vector_of(i64(D) * E), vector_of(i64(WARP_LANES) * E)));
  static constexpr int REGROUP_VECTOR = smallest(ALIGN, smallest(vector_of(i64(D) * E), vector_of(i64(LANES) * E)));
};

}  // namespace ks
