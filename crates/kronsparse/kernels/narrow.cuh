// The kernel for few vectors, on the CUDA cores: the time is that of reading the weights once. Blocks are small, so that all
// multiprocessors read; a block's sum over l is split among its threads; every load of weights is 16 bytes of one thread, in a
// row over a warp, and on its way before the block waits for X. X lies in shared memory as in global memory.
// A block multiplies VECTORS vectors, LANES lanes and OUTPUTS outputs of one super-block, DEPTH inputs at a time; a thread
// THREAD_LANES × THREAD_OUTPUTS × all the vectors, for every SPLIT-th group of inputs (as many as fill 16 bytes).
// Weights are packed [super-block, lane tile, output tile][group of inputs][lane of thread, output of thread][thread][input].
#pragma once
#include "epilogue.cuh"
#include "pieces.cuh"

namespace ks {

// Words of shared or global memory as numbers: number `k` of `words`.
template <class Element> struct NarrowNumber;
template <> struct NarrowNumber<F16> {
  static constexpr int BYTES = 2;
  static KS_DEVICE float at(const u32* words, int k) { return widen_f16(static_cast<u16>(words[k / 2] >> (k % 2 * 16))); }
};
template <> struct NarrowNumber<Bf16> {
  static constexpr int BYTES = 2;
  static KS_DEVICE float at(const u32* words, int k) { return float_of(k % 2 ? words[k / 2] & 0xffff0000u : words[k / 2] << 16); }
};
template <> struct NarrowNumber<F32> {
  static constexpr int BYTES = 4;
  static KS_DEVICE float at(const u32* words, int k) { return float_of(words[k]); }
};

template <class Element, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, int A, int B, int C, int D, int VECTORS, int LANES, int OUTPUTS, int DEPTH,
          int THREAD_LANES, int THREAD_OUTPUTS, int SPLIT, int ALIGN, int SHARED>
struct Narrow {
  using Number = NarrowNumber<Element>;
  static constexpr bool LAST = LAYOUT == Layout::BatchLast;
  static constexpr int E = Number::BYTES, GROUP = 16 / E;  // inputs of a group
  static constexpr int LANE_THREADS = LANES / THREAD_LANES, OUTPUT_THREADS = OUTPUTS / THREAD_OUTPUTS, TOGETHER = LANE_THREADS * OUTPUT_THREADS;
  static constexpr int THREADS = TOGETHER * SPLIT, PIECES = THREAD_LANES * THREAD_OUTPUTS;
  static_assert(LANES % THREAD_LANES == 0 && OUTPUTS % THREAD_OUTPUTS == 0 && THREADS % 32 == 0, "the threads share the tile evenly");
  static_assert(DEPTH % (GROUP * SPLIT) == 0, "every thread has whole groups of a stage");
  static constexpr int TURNS = DEPTH / (GROUP * SPLIT), STAGES = ceil_div(C, DEPTH), GROUPS = STAGES * DEPTH / GROUP;
  // Shared X: batch-first [vector][l][lane], batch-last [l][lane][vector]. WHOLE: a thread has all lanes.
  static constexpr bool WHOLE = !LAST && THREAD_LANES == D && LANES == D;
  static constexpr int LINES = LAST ? DEPTH * LANES : VECTORS, LINE_BYTES = (LAST ? VECTORS : DEPTH * LANES) * E, X_BYTES = ceil_div(LINES * LINE_BYTES, 16) * 16;
  static constexpr int BUFFERS = STAGES > 1 ? 2 : 1;
  // Partial sums take the place of X at the end.
  static constexpr int SUM_VECTORS = VECTORS + (LAST ? 1 : 0), SUMS = SUM_VECTORS * LANES * OUTPUTS;
  static constexpr int SUM_BYTES = SPLIT * SUMS * 4;
  static_assert(SHARED == (BUFFERS * X_BYTES > SUM_BYTES ? BUFFERS * X_BYTES : SUM_BYTES), "the host and the kernel disagree on the shared memory");
  static constexpr int LANE_TILES = ceil_div(D, LANES), OUTPUT_TILES = ceil_div(B, OUTPUTS);
  static constexpr i64 TILES = i64(A) * LANE_TILES * OUTPUT_TILES;
  static constexpr i64 TILE_BYTES = i64(GROUPS) * PIECES * TOGETHER * 16;

  static constexpr int X_VECTOR = smallest(ALIGN, LANES == D ? vector_of(i64(C) * D * E) : smallest(vector_of(i64(D) * E), vector_of(i64(LANES) * E)));
  // Bytes of one shared load: a run of lanes, or of vectors.
  static constexpr int UNIT = WHOLE ? 16 : smallest(16, vector_of(i64(LAST ? VECTORS : THREAD_LANES) * E));

  const Args& args;
  u8* const shared;
  const int thread, lane, output, part;
  U4 weights[TURNS][PIECES];
  float sum[VECTORS][PIECES];

  KS_DEVICE explicit Narrow(const Args& a)
      : args(a), shared(shared_memory()), thread(thread_index()), lane(thread % LANE_THREADS * THREAD_LANES),
        output(thread / LANE_THREADS % OUTPUT_THREADS * THREAD_OUTPUTS), part(thread / TOGETHER) {}

  KS_DEVICE void load_weights(i64 tile, int stage, int turn) {
    const i64 group = i64(stage) * (DEPTH / GROUP) + turn * SPLIT + part;
    const u8* from = static_cast<const u8*>(args.w) + tile * TILE_BYTES + (group * (PIECES * TOGETHER) + thread % TOGETHER) * 16;
    // Not as constants: NVRTC 13.0 moves loads of constants behind the wait for the kernels before, these it leaves in front.
    KS_UNROLL
    for (int p = 0; p < PIECES; ++p) weights[turn][p] = load_global16(from + p * (TOGETHER * 16));
  }

  template <int VECTOR> KS_DEVICE void load_rows(u8* buffer, i64 n0, int i, int j0, int l0) const {
    constexpr bool RUNS = LANES != D;
    constexpr int BYTES = piece_bytes(VECTOR, vector_of(RUNS ? LANES * E : LINE_BYTES)), RUN = LANES * E / BYTES;
    const u8* from = static_cast<const u8*>(args.x) + (((n0 * A + i) * C + l0) * D + j0) * E;
    const int rows = args.n - n0 < VECTORS ? static_cast<int>(args.n - n0) : VECTORS;
    copy_pieces<BYTES, VECTOR, 4, THREADS, VECTORS, LINE_BYTES / BYTES, true>(buffer, from, thread, [&](int line, int piece, int more) {
      const int row = line + more;
      bool valid = row < rows;
      i64 source = row * (i64(A) * C * D * E);
      int left;
      if constexpr (RUNS) {
        const int l = piece / RUN, byte = piece % RUN * BYTES;
        valid = valid && l0 + l < C;
        left = (D - j0) * E - byte;
        source += l * (i64(D) * E) + byte;
      } else {
        left = (C - l0) * (D * E) - piece * BYTES;
        source += piece * BYTES;
      }
      return Piece{row * LINE_BYTES + piece * BYTES, source, valid ? left : 0};
    });
  }
  template <int VECTOR> KS_DEVICE void load_lines(u8* buffer, i64 n0, int i, int j0, int l0) const {
    constexpr int BYTES = piece_bytes(VECTOR, vector_of(LINE_BYTES));
    const i64 row = args.n * E;
    const int bytes = args.n - n0 < VECTORS ? static_cast<int>(args.n - n0) * E : LINE_BYTES;
    const u8* from = static_cast<const u8*>(args.x) + ((i64(i) * C + l0) * D + j0) * row + n0 * E;
    copy_pieces<BYTES, VECTOR, 4, THREADS, DEPTH * LANES, LINE_BYTES / BYTES, VECTOR == 16>(buffer, from, thread, [&](int first, int piece, int more) {
      const int line = first + more, l = line / LANES, j = line % LANES, byte = piece * BYTES;
      const bool valid = l0 + l < C && j0 + j < D;
      return Piece{line * LINE_BYTES + byte, (i64(l) * D + j) * row + byte, valid ? bytes - byte : 0};
    });
  }
  KS_DEVICE void load_x(u8* buffer, i64 n0, int i, int j0, int l0) const {
    if constexpr (!LAST) {
      load_rows<X_VECTOR>(buffer, n0, i, j0, l0);
    } else {
      constexpr int LINE = vector_of(LINE_BYTES), WIDE = smallest(ALIGN, LINE), MIDDLE = smallest(4, WIDE);
      const i64 row = args.n * E;
      if (row % WIDE == 0) load_lines<WIDE>(buffer, n0, i, j0, l0);
      else if (row % MIDDLE == 0) load_lines<MIDDLE>(buffer, n0, i, j0, l0);
      else load_lines<2>(buffer, n0, i, j0, l0);
    }
  }

  // One group of inputs: THREAD_LANES × THREAD_OUTPUTS weights each, against all vectors.
  KS_DEVICE void multiply(const float (&w)[PIECES][GROUP], const u8* buffer, int group) {
    if constexpr (LAST) {
      KS_UNROLL
      for (int e = 0; e < GROUP; ++e)
        KS_UNROLL
        for (int j = 0; j < THREAD_LANES; ++j) {
          const u8* from = buffer + ((group * GROUP + e) * LANES + lane + j) * LINE_BYTES;
          KS_UNROLL
          for (int first = 0; first < VECTORS; first += UNIT / E) {
            u32 words[UNIT < 4 ? 1 : UNIT / 4];
            take_words<UNIT>(words, from + first * E);
            KS_UNROLL
            for (int v = 0; v < UNIT / E; ++v)
              KS_UNROLL
              for (int o = 0; o < THREAD_OUTPUTS; ++o) {
                const int p = j * THREAD_OUTPUTS + o;
                sum[first + v][p] += w[p][e] * Number::at(words, v);
              }
          }
        }
    } else {
      constexpr int RUN = (WHOLE ? GROUP : 1) * THREAD_LANES;  // numbers that are contiguous
      KS_UNROLL
      for (int v = 0; v < VECTORS; ++v) {
        const u8* from = buffer + v * LINE_BYTES + (group * GROUP * LANES + lane) * E;
        KS_UNROLL
        for (int first = 0; first < GROUP * THREAD_LANES; first += RUN) {
          u32 words[(RUN * E + 3) / 4];
          if constexpr (UNIT >= 4) {
            KS_UNROLL
            for (int b = 0; b < RUN * E; b += UNIT) take_words<UNIT>(words + b / 4, from + first / THREAD_LANES * (LANES * E) + b);
          } else {
            KS_UNROLL
            for (int k = 0; k < RUN; ++k) {
              const u32 number = load_shared2(from + (first / THREAD_LANES * LANES + k) * E);
              words[k / 2] = k % 2 ? words[k / 2] | number << 16 : number;
            }
          }
          KS_UNROLL
          for (int k = 0; k < RUN; ++k) {
            const int e = (first + k) / THREAD_LANES, j = (first + k) % THREAD_LANES;
            const float x = Number::at(words, k);
            KS_UNROLL
            for (int o = 0; o < THREAD_OUTPUTS; ++o) sum[v][j * THREAD_OUTPUTS + o] += w[j * THREAD_OUTPUTS + o][e] * x;
          }
        }
      }
    }
  }

  // Where a partial sum stands: neighbours in the output are neighbours here.
  static KS_DEVICE int slot(int v, int o, int j) { return LAST ? (o * LANES + j) * SUM_VECTORS + v : (v * OUTPUTS + o) * LANES + j; }

  // The parts of one output, added up, with its bias.
  static KS_DEVICE float total(const float* sums, int v, int o, int j, const Args& args, i64 feature) {
    float sum = 0.f;
    KS_UNROLL
    for (int s = 0; s < SPLIT; ++s) sum += load_sum(sums + s * SUMS + slot(v, o, j));
    return finish<Element, Activation::None, BIAS>(sum, args.bias, feature);
  }

  // Bias, activation, join, store.
  KS_DEVICE void store(i64 n0, int i, int j0, int o0) const {
    // Two outputs that are joined are neighbouring lanes, or, without lanes, neighbouring outputs.
    constexpr int OUTPUTS_OF = outputs_of(JOIN);
    static_assert(JOIN != Join::Gate || (D % 2 == 0 && LANES % 2 == 0) || (D == 1 && LANES == 1 && B % 2 == 0 && OUTPUTS % 2 == 0), "a tile has both");
    float* sums = reinterpret_cast<float*>(shared);
    sync_block();
    KS_UNROLL
    for (int v = 0; v < VECTORS; ++v)
      KS_UNROLL
      for (int p = 0; p < PIECES; ++p)
        store_sum(sums + part * SUMS + slot(v, output + p % THREAD_OUTPUTS, lane + p / THREAD_OUTPUTS), sum[v][p]);
    sync_block();
    for (int k = thread; k < VECTORS * LANES * OUTPUTS / OUTPUTS_OF; k += THREADS) {
      const int v = LAST ? k % VECTORS : k / (LANES * OUTPUTS / OUTPUTS_OF), place = (LAST ? k / VECTORS : k) * OUTPUTS_OF;
      const int j = place % LANES, o = place / LANES % OUTPUTS;
      if (n0 + v >= args.n || j0 + j >= D || o0 + o >= B) continue;
      const i64 feature = (i64(i) * B + o0 + o) * D + j0 + j;
      float result = activate<KIND>(total(sums, v, o, j, args, feature));
      if constexpr (JOIN == Join::Gate) result *= D == 1 ? total(sums, v, o + 1, j, args, feature + 1) : total(sums, v, o, j + 1, args, feature + 1);
      const i64 row = feature / OUTPUTS_OF, at = LAST ? row * args.n + n0 + v : (n0 + v) * (i64(A) * B * D / OUTPUTS_OF) + row;
      if constexpr (JOIN == Join::Residual) result += Element::load(args.residual, at);
      Element::store(args.y, at, result);
    }
    sync_block();
  }

  KS_DEVICE void run() {
    const i64 items = (args.n + VECTORS - 1) / VECTORS * TILES;
    for (i64 item = block_index(); item < items; item += grid_size()) {
      const i64 tile = item % TILES, n0 = item / TILES * VECTORS;
      const int i = static_cast<int>(tile / (LANE_TILES * OUTPUT_TILES)), j0 = static_cast<int>(tile / OUTPUT_TILES % LANE_TILES) * LANES,
                o0 = static_cast<int>(tile % OUTPUT_TILES) * OUTPUTS;
      KS_UNROLL
      for (int turn = 0; turn < TURNS; ++turn) load_weights(tile, 0, turn);
      // Weights need not wait.
      wait_for_previous();
      load_x(shared, n0, i, j0, 0);
      copy_commit();
      KS_UNROLL
      for (int v = 0; v < VECTORS; ++v)
        KS_UNROLL
        for (int p = 0; p < PIECES; ++p) sum[v][p] = 0.f;
      KS_UNROLL_BY(1)
      for (int stage = 0; stage < STAGES; ++stage) {
        if (stage + 1 < STAGES) load_x(shared + (stage + 1) % BUFFERS * X_BYTES, n0, i, j0, (stage + 1) * DEPTH);
        copy_commit();
        copy_wait<1>();
        sync_block();
        const u8* buffer = shared + stage % BUFFERS * X_BYTES;
        KS_UNROLL
        for (int turn = 0; turn < TURNS; ++turn) {
          float w[PIECES][GROUP];
          KS_UNROLL
          for (int p = 0; p < PIECES; ++p)
            KS_UNROLL
            for (int e = 0; e < GROUP; ++e) w[p][e] = Number::at(weights[turn][p].v, e);
          // The registers are free for the next stage.
          if (stage + 1 < STAGES) load_weights(tile, stage + 1, turn);
          multiply(w, buffer, turn * SPLIT + part);
        }
        sync_block();
      }
      store(n0, i, j0, o0);
    }
  }
};

template <class Element, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, int A, int B, int C, int D, int VECTORS, int LANES, int OUTPUTS, int DEPTH,
          int THREAD_LANES, int THREAD_OUTPUTS, int SPLIT, int ALIGN, int SHARED>
KS_DEVICE void narrow(const Args& args) {
  Narrow<Element, LAYOUT, KIND, BIAS, JOIN, A, B, C, D, VECTORS, LANES, OUTPUTS, DEPTH, THREAD_LANES, THREAD_OUTPUTS, SPLIT, ALIGN, SHARED> kernel(args);
  kernel.run();
}

}  // namespace ks
