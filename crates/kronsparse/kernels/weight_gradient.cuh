// The gradient of a factor's weights: G[i,o,l,j] = Σ_n V[n,i,o,j] · X[n,i,l,j], where V is the gradient of the outputs. For every lane
// (i, j) that is a product whose sum runs over the batch, and the batch is the slow index of both arrays: rows come to shared memory as
// they lie, and byte permutes of a few rows make fragments, of as many lanes (or outputs, or inputs) as 16 bytes hold. Which term of the
// sum a thread takes does not matter as long as it takes the same one of both arrays. Every block sums a part of the batch.
//
// `x`: X; `residual`: V; `y`: the parts, f32 [CHUNKS][a][b][c][d], which gradient_sum.cuh adds up.
#pragma once
#include "args.cuh"
#include "mma_number.cuh"

namespace ks {

// One of the two arrays, [n][a][SIZE][D], and its boxes: ROWS vectors × TILE of SIZE × LANES of D. A thread reads units of SUB × J numbers,
// of which there are GROUP in a fragment.
template <class Number, int BLOCKS, int SIZE, int D, int GROUP, int GROUPS, int WARPS, int SUB, int J, int LANES, int ROWS, int ALIGN> struct GradientSide {
  static constexpr int E = Number::BYTES, OWN = Number::OWN, UNIT = SUB * J, WORDS = ceil_div(UNIT * E, 4);
  static constexpr int TILE = GROUP * GROUPS * WARPS * SUB, TILES = ceil_div(SIZE, TILE);
  // A line of shared memory is what global memory has: pieces of neighbours are fetched together. Runs of 16 bytes at most are those of a
  // unit; of longer ones every warp reads a part.
  static constexpr int LINE = TILE * LANES * E, RUN = LANES * E;
  static_assert(LANES == J || (J * E == 16 && SUB == 1 && RUN <= 64), "units of a long run have 16 bytes");
  // The units of eight threads, of four rows and two outputs, lie in different banks: outputs 16 bytes and rows 32 apart, or outputs 64 and
  // rows 16.
  static constexpr int PITCH = ceil_div(LINE, 128) * 128 + (LANES == J ? 32 : 16), STAGE = ROWS * PITCH;
  static constexpr int VECTOR = smallest(ALIGN, LANES == D && LANES == J ? vector_of(i64(SIZE) * D * E) : vector_of(J * E));

  // Where the numbers of block i, from `start` and lane `lane` on, stand in the first vector.
  static KS_DEVICE const u8* begin(const void* array, i64 i, int start, int lane) {
    return static_cast<const u8*>(array) + ((i * SIZE + start) * D + lane) * E;
  }

  // Which unit stands for row or column g of a fragment: with runs of 32 bytes the next but one is 64 bytes away.
  static KS_DEVICE int unit_of(int g) { return RUN == 32 && LANES > J ? (g & ~3) | (g & 1) << 1 | (g >> 1 & 1) : g; }

  // Queues the copies of a box whose first vector is `first` of `n`.
  template <int THREADS> static KS_DEVICE void copy(u8* stage, const u8* from, int start, i64 first, i64 n, int thread) {
    share_pieces<THREADS, ROWS, LINE / VECTOR, true>(thread, [&](int line, int piece, int more) {
      const int number = piece * VECTOR / E, at = number / LANES, lane = number % LANES;
      const i64 row = first + line + more;
      copy_piece<VECTOR>(stage + (line + more) * PITCH + piece * VECTOR, from + (row * BLOCKS * SIZE * D + at * D + lane) * E, row < n && start + at < SIZE);
    });
  }

  // A unit of each of this thread's terms.
  static KS_DEVICE void take(u32 (&words)[OWN][WORDS], const u8* stage, int lanes, int unit, int step, int quad) {
    KS_UNROLL
    for (int k = 0; k < OWN; ++k)
      take_words<UNIT * E>(words[k], stage + (step * Number::STEP + quad + 4 * k) * PITCH + (unit * SUB * LANES + lanes * J) * E);
  }
  // Word p of number e of the unit, in a fragment: two terms of 16 bits, or one.
  static KS_DEVICE u32 word(const u32 (&words)[OWN][WORDS], int p, int e) {
    if constexpr (E == 2) return permute_bytes(words[2 * p][e / 2], words[2 * p + 1][e / 2], e % 2 ? 0x7632 : 0x5410);
    else return words[p][e];
  }
};

// LANES lanes a block, J of them a warp; OUTER and INNER: how many fragments a warp has of V and of X, and `_WARPS` so many warps;
// `_SUB` outputs or inputs a unit.
template <class Number, int A, int B, int C, int D, int J, int LANES, int OUTER_SUB, int INNER_SUB, int OUTER, int INNER, int OUTER_WARPS,
          int INNER_WARPS, int ROWS, int STAGES, int CHUNKS, int ALIGN>
struct WeightGradient {
  using Outer = GradientSide<Number, A, B, D, 16, OUTER, OUTER_WARPS, OUTER_SUB, J, LANES, ROWS, ALIGN>;
  using Inner = GradientSide<Number, A, C, D, 8, INNER, INNER_WARPS, INNER_SUB, J, LANES, ROWS, ALIGN>;
  static constexpr int THREADS = OUTER_WARPS * INNER_WARPS * (LANES / J) * 32, LANE_TILES = D / LANES;
  static constexpr int UNIT = Inner::UNIT;
  // Numbers of a part that a thread stores at a time: as many as follow each other and do not end within the inputs.
  static constexpr int RUN = LANES == D && LANES == J ? smallest(vector_of(UNIT), vector_of(i64(C) * D)) : vector_of(J);
  static constexpr int VECTOR = smallest(RUN, 4);
  static_assert(D % LANES == 0 && LANES % J == 0 && ROWS % Number::STEP == 0 && STAGES >= 2, "not a tile");

  float sum[OUTER][OUTER_SUB][INNER][UNIT][4];
  int group, quad, lanes, outer, inner;  // of the warp: which J lanes, its first unit of V and of X

  KS_DEVICE void multiply(const u8* stage, int step) {
    typename Number::Weights x[INNER][UNIT];
    KS_UNROLL
    for (int f = 0; f < INNER; ++f) {
      u32 words[Inner::OWN][Inner::WORDS];
      Inner::take(words, stage + Outer::STAGE, lanes, inner + 8 * f + Inner::unit_of(group), step, quad);
      KS_UNROLL
      for (int e = 0; e < UNIT; ++e) x[f][e] = Number::weights(Inner::word(words, 0, e), Inner::word(words, 1, e));
    }
    KS_UNROLL
    for (int f = 0; f < OUTER; ++f) {
      u32 low[Outer::OWN][Outer::WORDS], high[Outer::OWN][Outer::WORDS];  // rows g and g + 8
      Outer::take(low, stage, lanes, outer + 16 * f + Outer::unit_of(group), step, quad);
      Outer::take(high, stage, lanes, outer + 16 * f + Outer::unit_of(group) + 8, step, quad);
      KS_UNROLL
      for (int e = 0; e < Outer::UNIT; ++e) {
        const u32 a[4] = {Outer::word(low, 0, e), Outer::word(high, 0, e), Outer::word(low, 1, e), Outer::word(high, 1, e)};
        const typename Number::Data v = Number::data(a);
        KS_UNROLL
        for (int g = 0; g < INNER; ++g) {
          KS_UNROLL
          for (int s = 0; s < INNER_SUB; ++s) Number::multiply(sum[f][e / J][g][s * J + e % J], v, x[g][s * J + e % J]);
        }
      }
    }
  }

  // `to`: G[i, 0, 0, first lane of the block] of this part; the block's first output and input.
  KS_DEVICE void store(float* to, int first_output, int first_input) const {
    KS_UNROLL
    for (int f = 0; f < OUTER; ++f) {
      KS_UNROLL
      for (int half = 0; half < 2; ++half) {
        KS_UNROLL
        for (int t = 0; t < OUTER_SUB; ++t) {
          const int o = first_output + (outer + 16 * f + Outer::unit_of(group) + 8 * half) * OUTER_SUB + t;
          if (o >= B) continue;
          KS_UNROLL
          for (int g = 0; g < INNER; ++g) {
            KS_UNROLL
            for (int x = 0; x < 2; ++x) {
              KS_UNROLL
              for (int e = 0; e < UNIT; e += VECTOR) {
                const int l = first_input + (inner + 8 * g + Inner::unit_of(2 * quad + x)) * INNER_SUB + e / J;
                if (l >= C) continue;
                float* at = to + (static_cast<i64>(o) * C + l) * D + lanes * J + e % J;
                const auto number = [&](int k) { return bits(sum[f][t][g][e + k][2 * half + x]); };
                if constexpr (VECTOR == 4) store_global16(at, {{number(0), number(1), number(2), number(3)}});
                else if constexpr (VECTOR == 2) store_global8(at, {{number(0), number(1)}});
                else store_global4(at, number(0));
              }
            }
          }
        }
      }
    }
  }

  static KS_DEVICE void run(const Args& args) {
    // Neighbours in the grid share the rows of X and V: lanes first, parts of the batch last.
    u32 block = block_index();
    const auto next = [&](u32 count) { const u32 at = block % count; block /= count; return static_cast<int>(at); };
    const int lane = next(LANE_TILES) * LANES, first_input = next(Inner::TILES) * Inner::TILE, first_output = next(Outer::TILES) * Outer::TILE;
    const i64 i = next(A), chunk = block;
    const i64 tiles = (args.n + ROWS - 1) / ROWS, share = (tiles + CHUNKS - 1) / CHUNKS;
    const i64 begin = chunk * share, end = begin + share < tiles ? begin + share : tiles;

    const int thread = static_cast<int>(thread_index()), warp = static_cast<int>(uniform(thread / 32));
    const u8* v = Outer::begin(args.residual, i, first_output, lane);
    const u8* x = Inner::begin(args.x, i, first_input, lane);
    u8* const stages = shared_memory();
    constexpr int STAGE = Outer::STAGE + Inner::STAGE;
    const auto load = [&](i64 tile) {
      if (tile < end) {
        u8* stage = stages + static_cast<int>((tile - begin) % STAGES) * STAGE;
        Outer::template copy<THREADS>(stage, v, first_output, tile * ROWS, args.n, thread);
        Inner::template copy<THREADS>(stage + Outer::STAGE, x, first_input, tile * ROWS, args.n, thread);
      }
      copy_commit();
    };

    WeightGradient own = {};
    own.group = thread % 32 / 4, own.quad = thread % 4;
    own.outer = warp % OUTER_WARPS * OUTER * 16, own.inner = warp / OUTER_WARPS % INNER_WARPS * INNER * 8;
    own.lanes = warp / (OUTER_WARPS * INNER_WARPS);
    KS_UNROLL
    for (int s = 0; s < STAGES - 1; ++s) load(begin + s);
    KS_UNROLL_BY(1)
    for (i64 tile = begin; tile < end; ++tile) {
      copy_wait<STAGES - 2>();
      // All have the tile, and are done with the one before it, whose place the next copies take.
      sync_block();
      load(tile + STAGES - 1);
      const u8* stage = stages + static_cast<int>((tile - begin) % STAGES) * STAGE;
      KS_UNROLL_BY(1)
      for (int step = 0; step < ROWS / Number::STEP; ++step) own.multiply(stage, step);
    }
    own.store(static_cast<float*>(args.y) + (chunk * A + i) * (i64(B) * C * D) + lane, first_output, first_input);
  }
};

template <class Number, int... NUMBERS> KS_DEVICE void weight_gradient(const Args& args) { WeightGradient<Number, NUMBERS...>::run(args); }

}  // namespace ks
