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

template <class E, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, i64 A, i64 B, i64 C, i64 D, int LANES, int OUTPUTS, int VECTORS, int DEPTH,
          int RO, int RV>
struct Plain {
  using Sum = typename E::Sum;
  using Raw = typename E::Raw;
  static constexpr bool FIRST = LAYOUT == Layout::BatchFirst;
  static_assert(JOIN != Join::Gate, "neighbouring outputs are different threads'");
  static constexpr int OUTPUT_THREADS = OUTPUTS / RO, VECTOR_THREADS = VECTORS / RV;
  static constexpr int THREADS = LANES * OUTPUT_THREADS * VECTOR_THREADS;
  static constexpr i64 LANE_TILES = (A * D + LANES - 1) / LANES, OUTPUT_TILES = (B + OUTPUTS - 1) / OUTPUTS;
  static_assert(OUTPUTS % RO == 0 && VECTORS % RV == 0, "a thread holds whole rows and columns of the tile");
  static_assert(LANES <= 32, "a thread stays on one lane while it fetches");
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps, and no more than a block may have");

  // Staged inputs: batch-first [DEPTH][VECTORS + 1][LANES], batch-last [DEPTH][LANES][VECTORS]. The extra vector keeps the
  // stores of neighbouring threads, which walk along l, in different banks. Staged weights: [DEPTH][OUTPUTS][LANES].
  static constexpr int X_STRIDE = LANES * (FIRST ? VECTORS + 1 : VECTORS), W_STRIDE = LANES * OUTPUTS;
  static constexpr int X_PER_THREAD = (DEPTH * VECTORS * LANES + THREADS - 1) / THREADS;
  static constexpr int W_PER_THREAD = (DEPTH * OUTPUTS * LANES + THREADS - 1) / THREADS;
  static constexpr u32 SHARED_BYTES = static_cast<u32>(sizeof(Sum)) * DEPTH * (X_STRIDE + W_STRIDE);

  // Which element of the staged inputs a thread brings in: neighbours are neighbours in memory. All tile numbers are powers of
  // two, so the place of element `thread + k · THREADS` is the sum of two places, and the second is a constant.
  struct Place { int l, vector, lane; };
  static constexpr bool powers() {
    for (int x : {LANES, OUTPUTS, VECTORS, DEPTH, RO, RV}) if (x <= 0 || (x & (x - 1)) != 0) return false;
    return true;
  }
  static_assert(powers(), "a tile consists of powers of two");
  static KS_DEVICE constexpr Place place(int e) {
    if constexpr (FIRST) return {e / LANES % DEPTH, e / (LANES * DEPTH), e % LANES};
    else return {e / (VECTORS * LANES), e % VECTORS, e / VECTORS % LANES};
  }
  static KS_DEVICE constexpr int slot(Place p) { return p.l * X_STRIDE + (FIRST ? p.vector * LANES + p.lane : p.lane * VECTORS + p.vector); }
  // The input feature (l = 0) and the output feature (o = 0) of a lane.
  static KS_DEVICE i64 input_feature(i64 lane) { return lane / D * (C * D) + lane % D; }
  static KS_DEVICE i64 output_feature(i64 lane) { return lane / D * (B * D) + lane % D; }

  static KS_DEVICE void fetch_x(Raw (&out)[X_PER_THREAD], const void* x, i64 n, i64 v0, i64 lane0, i64 l0, int thread) {
    const Place first = place(thread);
    const i64 lane = lane0 + first.lane, l = l0 + first.l, vector = v0 + first.vector;
    const i64 start = FIRST ? vector * (A * C * D) + input_feature(lane) + l * D : (input_feature(lane) + l * D) * n + vector;
    KS_UNROLL
    for (int k = 0; k < X_PER_THREAD; ++k) {
      const Place more = place(k * THREADS);
      const bool valid = thread + k * THREADS < DEPTH * VECTORS * LANES && lane + more.lane < A * D && l + more.l < C && vector + more.vector < n;
      i64 at = start;
      if constexpr (FIRST) {
        at += more.vector * (A * C * D) + more.l * D;  // THREADS is a multiple of LANES: the lane stays.
      } else {
        if (more.lane != 0) at += (input_feature(lane + more.lane) - input_feature(lane)) * n;
        at += more.l * D * n + more.vector;
      }
      out[k] = valid ? E::raw(x, at) : Raw(0);
    }
  }
  static KS_DEVICE void fetch_w(Raw (&out)[W_PER_THREAD], const void* w, i64 lane0, i64 o0, i64 l0, int thread) {
    const i64 l = l0 + thread / W_STRIDE, o = o0 + thread / LANES % OUTPUTS;
    const i64 start = lane0 * (B * C) + (l * B + o) * LANES + thread % LANES;
    KS_UNROLL
    for (int k = 0; k < W_PER_THREAD; ++k) {
      const int more_l = k * THREADS / W_STRIDE, more_o = k * THREADS / LANES % OUTPUTS;
      const bool valid = thread + k * THREADS < DEPTH * W_STRIDE && l + more_l < C && o + more_o < B;
      out[k] = valid ? E::raw_constant(w, start + (more_l * B + more_o) * LANES) : Raw(0);
    }
  }

  static KS_DEVICE void run(const Args& args) {
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
      Sum sums[RO][RV] = {};
      Raw next_x[X_PER_THREAD], next_w[W_PER_THREAD];
      fetch_x(next_x, args.x, n, v0, lane0, 0, thread);
      fetch_w(next_w, args.w, lane0, o0, 0, thread);
      for (i64 l0 = 0; l0 < C; l0 += DEPTH) {
        sync_block();  // Everybody has read what is overwritten now.
        KS_UNROLL
        for (int k = 0; k < X_PER_THREAD; ++k) {
          if (thread + k * THREADS < DEPTH * VECTORS * LANES) store_sum(xs + slot(place(thread)) + slot(place(k * THREADS)), E::value(next_x[k]));
        }
        KS_UNROLL
        for (int k = 0; k < W_PER_THREAD; ++k) {
          if (thread + k * THREADS < DEPTH * W_STRIDE) store_sum(ws + thread + k * THREADS, E::value(next_w[k]));
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
          const i64 place = FIRST ? batch * (A * B * D) + feature : feature * n + batch;
          Sum result = finish<E, KIND, BIAS>(sums[o][v], args.bias, feature);
          if constexpr (JOIN == Join::Residual) result += E::load(args.residual, place);
          E::store(args.y, place, result);
        }
      }
    }
  }
};

// The numbers are those of `Plain`, in its order.
template <class E, auto... NUMBERS> KS_DEVICE void plain(const Args& args) { Plain<E, NUMBERS...>::run(args); }

}  // namespace ks
