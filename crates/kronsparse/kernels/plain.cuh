// The kernel that is always legal: Y[n,i,o,j] = sum over l of w[i,o,l,j] X[n,i,l,j] on the CUDA cores, for every element type,
// layout, pattern (A,B,C,D), batch and alignment. Other families are faster where they apply; f64 has only this one.
//
// A "lane" is one of the A·D pairs (i, j); a block multiplies LANES lanes, OUTPUTS outputs and VECTORS vectors of the batch, DEPTH
// inputs at a time, through shared memory; a thread holds RO × RV sums of one lane. The next inputs are fetched into registers
// while the present ones are multiplied. What lies beyond the edges is zero on both sides, so it adds nothing.
// Weights are packed [lane / LANES][l][o][lane % LANES]; lanes beyond A·D exist there and are zero.
#pragma once
#include "epilogue.cuh"

namespace ks {

template <class E, Layout LAYOUT, Activation KIND, bool BIAS, i64 A, i64 B, i64 C, i64 D, int LANES, int OUTPUTS, int VECTORS, int DEPTH,
          int RO, int RV>
struct Plain {
  using Sum = typename E::Sum;
  static constexpr bool FIRST = LAYOUT == Layout::BatchFirst;
  static constexpr int OUTPUT_THREADS = OUTPUTS / RO, VECTOR_THREADS = VECTORS / RV;
  static constexpr int THREADS = LANES * OUTPUT_THREADS * VECTOR_THREADS;
  static constexpr i64 LANE_TILES = (A * D + LANES - 1) / LANES, OUTPUT_TILES = (B + OUTPUTS - 1) / OUTPUTS;
  static_assert(OUTPUTS % RO == 0 && VECTORS % RV == 0, "a thread holds whole rows and columns of the tile");
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps, and no more than a block may have");

  // Staged inputs: batch-first [DEPTH][VECTORS + 1][LANES], batch-last [DEPTH][LANES][VECTORS]. The extra vector keeps the
  // stores of neighbouring threads, which walk along l, in different banks. Staged weights: [DEPTH][OUTPUTS][LANES].
  static constexpr int X_STRIDE = LANES * (FIRST ? VECTORS + 1 : VECTORS), W_STRIDE = LANES * OUTPUTS;
  static constexpr int X_PER_THREAD = (DEPTH * VECTORS * LANES + THREADS - 1) / THREADS;
  static constexpr int W_PER_THREAD = (DEPTH * OUTPUTS * LANES + THREADS - 1) / THREADS;
  static constexpr u32 SHARED_BYTES = static_cast<u32>(sizeof(Sum)) * DEPTH * (X_STRIDE + W_STRIDE);

  // Which element of the staged inputs a thread brings in its `k`-th turn: neighbours are neighbours in memory.
  struct Place { int l, vector, lane; };
  KS_DEVICE Place x_place(int e) {
    if constexpr (FIRST) return {e / LANES % DEPTH, e / (LANES * DEPTH), e % LANES};
    return {e / (VECTORS * LANES), e % VECTORS, e / VECTORS % LANES};
  }
  KS_DEVICE int x_slot(Place p) {
    return p.l * X_STRIDE + (FIRST ? p.vector * LANES + p.lane : p.lane * VECTORS + p.vector);
  }
  // The input feature (l = 0) and the output feature (o = 0) of a lane.
  KS_DEVICE i64 input_feature(i64 lane) { return lane / D * (C * D) + lane % D; }
  KS_DEVICE i64 output_feature(i64 lane) { return lane / D * (B * D) + lane % D; }

  KS_DEVICE void fetch_x(Sum (&out)[X_PER_THREAD], const void* x, i64 n, i64 v0, i64 lane0, i64 l0, int thread) {
    KS_UNROLL
    for (int k = 0; k < X_PER_THREAD; ++k) {
      const int e = thread + k * THREADS;
      const Place p = x_place(e);
      const i64 lane = lane0 + p.lane, l = l0 + p.l, vector = v0 + p.vector;
      const bool valid = e < DEPTH * VECTORS * LANES && lane < A * D && l < C && vector < n;
      const i64 feature = input_feature(lane) + l * D;
      out[k] = valid ? E::load(x, FIRST ? vector * (A * C * D) + feature : feature * n + vector) : Sum(0);
    }
  }
  KS_DEVICE void fetch_w(Sum (&out)[W_PER_THREAD], const void* w, i64 lane0, i64 o0, i64 l0, int thread) {
    KS_UNROLL
    for (int k = 0; k < W_PER_THREAD; ++k) {
      const int e = thread + k * THREADS;
      const int lane = e % LANES, output = e / LANES % OUTPUTS, depth = e / W_STRIDE;
      const i64 l = l0 + depth, o = o0 + output;
      const bool valid = depth < DEPTH && l < C && o < B;
      out[k] = valid ? E::load(w, lane0 * (B * C) + (l * B + o) * LANES + lane) : Sum(0);
    }
  }

  KS_DEVICE void run(const Args& args) {
    Sum* const xs = reinterpret_cast<Sum*>(shared_memory());
    Sum* const ws = xs + DEPTH * X_STRIDE;
    const int thread = static_cast<int>(thread_index());
    // Batch-first: lanes, then outputs run through neighbouring threads, as they lie in Y. Batch-last: vectors do.
    const int lane = FIRST ? thread % LANES : thread / VECTOR_THREADS % LANES;
    const int output = FIRST ? thread / LANES % OUTPUT_THREADS : thread / (VECTOR_THREADS * LANES);
    const int vector = FIRST ? thread / (LANES * OUTPUT_THREADS) : thread % VECTOR_THREADS;
    constexpr int X_STEP = FIRST ? LANES * VECTOR_THREADS : VECTOR_THREADS;
    const Sum* const my_x = xs + (FIRST ? vector * LANES + lane : lane * VECTORS + vector);
    const Sum* const my_w = ws + output * LANES + lane;

    const i64 n = args.n, tiles = OUTPUT_TILES * LANE_TILES * ((n + VECTORS - 1) / VECTORS);
    for (i64 tile = block_index(); tile < tiles; tile += grid_size()) {
      const i64 o0 = tile % OUTPUT_TILES * OUTPUTS, lane0 = tile / OUTPUT_TILES % LANE_TILES * LANES;
      const i64 v0 = tile / (OUTPUT_TILES * LANE_TILES) * VECTORS;
      Sum sums[RO][RV] = {}, next_x[X_PER_THREAD], next_w[W_PER_THREAD];
      fetch_x(next_x, args.x, n, v0, lane0, 0, thread);
      fetch_w(next_w, args.w, lane0, o0, 0, thread);
      for (i64 l0 = 0; l0 < C; l0 += DEPTH) {
        sync_block();  // Everybody has read what is overwritten now.
        KS_UNROLL
        for (int k = 0; k < X_PER_THREAD; ++k) {
          const int e = thread + k * THREADS;
          if (e < DEPTH * VECTORS * LANES) store_sum(xs + x_slot(x_place(e)), next_x[k]);
        }
        KS_UNROLL
        for (int k = 0; k < W_PER_THREAD; ++k) {
          const int e = thread + k * THREADS;
          if (e < DEPTH * W_STRIDE) store_sum(ws + e, next_w[k]);
        }
        sync_block();
        if (l0 + DEPTH < C) {
          fetch_x(next_x, args.x, n, v0, lane0, l0 + DEPTH, thread);
          fetch_w(next_w, args.w, lane0, o0, l0 + DEPTH, thread);
        }
        KS_UNROLL
        for (int l = 0; l < DEPTH; ++l) {
          Sum x[RV], w[RO];
          KS_UNROLL
          for (int v = 0; v < RV; ++v) x[v] = load_sum(my_x + l * X_STRIDE + v * X_STEP);
          KS_UNROLL
          for (int o = 0; o < RO; ++o) w[o] = load_sum(my_w + l * W_STRIDE + o * OUTPUT_THREADS * LANES);
          KS_UNROLL
          for (int o = 0; o < RO; ++o) {
            KS_UNROLL
            for (int v = 0; v < RV; ++v) sums[o][v] += w[o] * x[v];
          }
        }
      }
      if (lane0 + lane >= A * D) continue;
      KS_UNROLL
      for (int o = 0; o < RO; ++o) {
        const i64 at = o0 + output + o * OUTPUT_THREADS;
        if (at >= B) continue;
        const i64 feature = output_feature(lane0 + lane) + at * D;
        KS_UNROLL
        for (int v = 0; v < RV; ++v) {
          const i64 batch = v0 + vector + v * VECTOR_THREADS;
          if (batch >= n) continue;
          E::store(args.y, FIRST ? batch * (A * B * D) + feature : feature * n + batch, finish<E, KIND, BIAS>(sums[o][v], args.bias, feature));
        }
      }
    }
  }
};

// The numbers are those of `Plain`, in its order.
template <class E, auto... NUMBERS> KS_DEVICE void plain(const Args& args) { Plain<E, NUMBERS...>::run(args); }

}  // namespace ks
