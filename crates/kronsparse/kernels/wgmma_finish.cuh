// From the sums of wgmma to Y: bias, activation, join, rounding, and stores of 16 bytes (8, of a gate) or of boxes.
#pragma once
#include "wgmma_tile.cuh"
#include "wgmma_gather.cuh"

namespace ks {

// Bias, activation, rounding; then 16 bytes at a time to Y or to the staging buffer.
template <class S> struct Finish {
  using T = typename S::T;
  static constexpr int L = S::LANES_PER_GROUP;
  static constexpr Join JOIN = S::JOIN;
  static constexpr int OF = outputs_of(JOIN);
  static_assert(JOIN != Join::Gate || (!S::LAST && S::UNIT % 2 == 0 && (S::STAGED_OUTS == 0 || L % 2 == 0)), "a thread has both outputs that are joined");

  // `group` numbers the warpgroups as rows, lanes, outputs.
  static KS_DEVICE void store(const Args& args, const TensorMap* y_map, const Ring<S>& ring, const Place& p, float (&sums)[S::PRODUCTS][S::SUMS],
                              u32 group_row, u32 group_lane, u32 group_out, u32 warp, u32 g, u32 q, u32& buffers) {
    const u32 spread = Gather<S>::row_of(g);
    const int out0 = p.out_tile * S::OUTS + group_out * S::OUTS_PER_GROUP;
    if constexpr (S::LAST) {
      // UNIT consecutive vectors of one output.
      const i64 n0 = p.row_tile * S::ROWS + group_row * S::ROWS_PER_GROUP + warp * (128 / S::SIZE) + spread * S::UNIT;
      u8* y = static_cast<u8*>(args.y);
      KS_UNROLL
      for (int m = 0; m < S::SUMS / 2; ++m) {
        const int o = out0 + output_of<S>(m, q);
        const i64 feature = (static_cast<i64>(p.super_block) * S::B + o) * S::D + p.lane_tile;
        if (o < S::B && n0 < args.n) {
          float v[S::UNIT];
          float bias = 0.f;
          if constexpr (S::BIAS) bias = bias_of(args, feature);
          KS_UNROLL
          for (int s = 0; s < S::UNIT; ++s) v[s] = sums[s / 2][(m / 2) * 4 + (s % 2) * 2 + m % 2];
          const i64 at = (feature * args.n + n0) * S::SIZE;
          complete(v, bias, residual_of<16>(args, at, true));
          store_global16(y + at, Pack<T>::unit(v));
        }
      }
    } else if constexpr (S::STAGED_OUTS != 0) {
      staged(args, y_map, ring, p, sums, group_row, group_lane, group_out, warp, spread, q, buffers);
    } else {
      // TOGETHER outputs of all lanes are consecutive: units of 16 bytes.
      static_assert(L == S::D, "a thread holds all lanes of an output");
      constexpr int RUN = S::TOGETHER * L, UNITS = RUN / S::UNIT;
      KS_UNROLL
      for (int mt = 0; mt < S::MTILES; ++mt) {
        KS_UNROLL
        for (int h = 0; h < 2; ++h) {
          const i64 n = p.row_tile * S::ROWS + (group_row * S::MTILES + mt) * 64 + warp * 16 + h * 8 + spread;
          KS_UNROLL
          for (int s = 0; s < S::SUMS / 2 / S::TOGETHER; ++s) {
            const int o = out0 + (s * 4 + q) * S::TOGETHER;
            const i64 feature = (static_cast<i64>(p.super_block) * S::B + o) * S::D;
            KS_UNROLL
            for (int u = 0; u < UNITS; ++u) {
              float v[S::UNIT];
              KS_UNROLL
              for (int e = 0; e < S::UNIT; ++e) {
                const int at = u * S::UNIT + e, m = s * S::TOGETHER + at / L, j = at % L;
                v[e] = sums[mt * L + j][(m / 2) * 4 + h * 2 + m % 2];
                if constexpr (S::BIAS) {
                  if (o + at / L < S::B) v[e] += bias_of(args, feature + at);
                }
              }
              // B is a multiple of TOGETHER: a run is inside or outside.
              const bool inside = n < args.n && o < S::B;
              const i64 at = (n * (S::A * S::B * S::D) + feature + u * S::UNIT) * S::SIZE / OF;
              complete(v, 0.f, residual_of<16>(args, at, inside));
              if (inside) send(static_cast<u8*>(args.y) + at, Pack<T>::unit(v));
            }
          }
        }
      }
    }
  }

 private:
  // [row][STAGED_OUTS][LANES] per round; the warpgroups of an out group, with all rows and lanes, fill one of two buffers while
  // the copy engine still empties the other; one thread sends them.
  static KS_DEVICE void staged(const Args& args, const TensorMap* y_map, const Ring<S>& ring, const Place& p, float (&sums)[S::PRODUCTS][S::SUMS],
                               u32 group_row, u32 group_lane, u32 group_out, u32 warp, u32 spread, u32 q, u32& buffers) {
    constexpr int PER_ROUND = S::STAGED_OUTS / 4, ROUNDS = S::SUMS / 2 / PER_ROUND;
    const bool sender = thread_index() % 128 == 0 && group_row == 0 && group_lane == 0;
    constexpr u32 TEAM = 128 * S::ROW_GROUPS * S::LANE_GROUPS;
    const int out0 = p.out_tile * S::OUTS + group_out * S::OUTS_PER_GROUP;
    KS_UNROLL
    for (int round = 0; round < ROUNDS; ++round) {
      u8* buffer = ring.staging + (group_out * 2 + buffers) * S::Y_BUFFER;
      buffers ^= 1;
      if (sender) bulk_wait_read<1>();
      sync_some(1 + group_out, TEAM);
      KS_UNROLL
      for (int mt = 0; mt < S::MTILES; ++mt) {
        KS_UNROLL
        for (int h = 0; h < 2; ++h) {
          const u32 row = (group_row * S::MTILES + mt) * 64 + warp * 16 + h * 8 + spread;
          KS_UNROLL
          for (int k = 0; k < PER_ROUND; ++k) {
            const int m = round * PER_ROUND + k;
            const int o = k * 4 + q;
            KS_UNROLL
            for (int u = 0; u < (L + S::UNIT - 1) / S::UNIT; ++u) {
              float v[S::UNIT] = {};
              const u32 lane = group_lane * L + u * S::UNIT;
              KS_UNROLL
              for (int e = 0; e < S::UNIT && u * S::UNIT + e < L; ++e) {
                v[e] = sums[mt * L + u * S::UNIT + e][(m / 2) * 4 + h * 2 + m % 2];
                if constexpr (S::BIAS) {
                  const int out = out0 + round * S::STAGED_OUTS + o, j = p.lane_tile * S::LANES + lane + e;
                  if (out < S::B && j < S::D) v[e] += bias_of(args, (static_cast<i64>(p.super_block) * S::B + out) * S::D + j);
                }
              }
              constexpr int BYTES = (L * S::SIZE >= 16 ? 16 : L * S::SIZE) / OF;
              U4 residual = {};
              if constexpr (JOIN == Join::Residual) {
                const int out = out0 + round * S::STAGED_OUTS + o, j = p.lane_tile * S::LANES + lane;
                const i64 n = p.row_tile * S::ROWS + row, feature = (static_cast<i64>(p.super_block) * S::B + out) * S::D + j;
                residual = residual_of<BYTES>(args, (n * (S::A * S::B * S::D) + feature) * S::SIZE, n < args.n && out < S::B && j < S::D);
              }
              complete(v, 0.f, residual);
              u8* to = buffer + ((row * S::STAGED_OUTS + o) * S::LANES + lane) * S::SIZE / OF;
              const U4 unit = Pack<T>::unit(v);
              if constexpr (BYTES == 16) store_shared16(to, unit);
              else if constexpr (BYTES == 8) store_shared8(to, {{unit.v[0], unit.v[1]}});
              else if constexpr (BYTES == 4) store_shared4(to, unit.v[0]);
              else store_shared2(to, static_cast<u16>(unit.v[0]));
            }
          }
        }
      }
      fence_async();
      sync_some(1 + group_out, TEAM);
      if (sender) {
        const int out = out0 + round * S::STAGED_OUTS, row = static_cast<int>(p.row_tile * S::ROWS);
        // With all lanes, the outputs of a vector are one run.
        if constexpr (S::LANES == S::D) tensor_store(y_map, buffer, out * S::D / OF, p.super_block, row, 0);
        else tensor_store(y_map, buffer, p.lane_tile * S::LANES / OF, out, p.super_block, row);
        bulk_commit();
      }
    }
  }
  static KS_DEVICE float bias_of(const Args& args, i64 at) { return T::constant(args.bias, at); }
  // What is added to the outputs from byte `at` of Y on.
  template <int BYTES> static KS_DEVICE U4 residual_of(const Args& args, i64 at, bool inside) {
    U4 r = {};
    if constexpr (JOIN == Join::Residual) {
      static_assert(BYTES >= 4, "whole words");
      if (!inside) return {};
      const u8* from = static_cast<const u8*>(args.residual) + at;
      if constexpr (BYTES == 16) r = load_global16(from);
      else if constexpr (BYTES == 8) { const U2 w = load_global8(from); r.v[0] = w.v[0], r.v[1] = w.v[1]; }
      else r.v[0] = load_global4(from);
    }
    return r;
  }
  // 16 bytes, or the half of them that a gate leaves.
  static KS_DEVICE void send(u8* to, const U4& unit) {
    if constexpr (OF == 1) store_global16(to, unit);
    else store_global8(to, {{unit.v[0], unit.v[1]}});
  }
  static KS_DEVICE void complete(float (&v)[S::UNIT], float bias, const U4& residual) {
    KS_UNROLL
    for (int e = 0; e < S::UNIT; ++e) {
      v[e] += bias;
      if (JOIN != Join::Gate || e % 2 == 0) v[e] = activate<S::ACTIVATION>(v[e]);
      if constexpr (JOIN == Join::Residual) v[e] += Pack<T>::at(residual, e);
    }
    if constexpr (JOIN == Join::Gate) {
      KS_UNROLL
      for (int e = 0; e < S::UNIT / 2; ++e) v[e] = v[2 * e] * v[2 * e + 1];
    }
  }
};

}  // namespace ks
