// The number types of the tensor cores (mma.sync): what a fragment holds, how it is multiplied, how sums are rounded for the
// store, and number `k` of a few stored ones (`at`). A fragment A has 16 rows and STEP terms of the sum, B has STEP terms and 8 columns; thread 4g+q of a warp owns OWN
// terms of rows g and g+8, and the same OWN terms of column g.
#pragma once
#include "epilogue.cuh"
#include "pieces.cuh"

namespace ks {

// What f16 and bf16 share: 2 bytes, two consecutive terms in a word.
struct MmaHalf {
  static constexpr int BYTES = 2, STEP = 16, OWN = 4;
  struct Data { u32 a[4]; };
  struct Weights { u32 b[2]; };
  static KS_DEVICE Data data(const u32 (&a)[4]) { return {{a[0], a[1], a[2], a[3]}}; }
  static KS_DEVICE Weights weights(u32 b0, u32 b1) { return {{b0, b1}}; }
};

struct MmaF16 : MmaHalf {
  static KS_DEVICE void multiply(float (&sum)[4], const Data& x, const Weights& w) { mma_f16(sum, x.a, w.b[0], w.b[1]); }
  static KS_DEVICE u32 pack(float low, float high) { return pack_f16(low, high); }
  static KS_DEVICE float load(const void* p) { return widen_f16(load_constant2(p)); }
  static KS_DEVICE float at(const u32* words, int k) { return widen_f16(static_cast<u16>(words[k / 2] >> (k % 2 * 16))); }
};

struct MmaBf16 : MmaHalf {
  static KS_DEVICE void multiply(float (&sum)[4], const Data& x, const Weights& w) { mma_bf16(sum, x.a, w.b[0], w.b[1]); }
  static KS_DEVICE u32 pack(float low, float high) { return pack_bf16(low, high); }
  static KS_DEVICE float load(const void* p) { return widen_bf16(load_constant2(p)); }
  static KS_DEVICE float at(const u32* words, int k) { return widen_bf16(static_cast<u16>(words[k / 2] >> (k % 2 * 16))); }
};

// f32 numbers rounded to TF32 before the product.
struct MmaTf32 {
  static constexpr int BYTES = 4, STEP = 8, OWN = 2;
  struct Data { u32 a[4]; };
  struct Weights { u32 b[2]; };
  static KS_DEVICE Data data(const u32 (&a)[4]) {
    return {{round_tf32(float_of(a[0])), round_tf32(float_of(a[1])), round_tf32(float_of(a[2])), round_tf32(float_of(a[3]))}};
  }
  static KS_DEVICE Weights weights(u32 b0, u32 b1) { return {{round_tf32(float_of(b0)), round_tf32(float_of(b1))}}; }
  static KS_DEVICE void multiply(float (&sum)[4], const Data& x, const Weights& w) { mma_tf32(sum, x.a, w.b[0], w.b[1]); }
  static KS_DEVICE float load(const void* p) { return float_of(load_constant4(p)); }
  static KS_DEVICE float at(const u32* words, int k) { return float_of(words[k]); }
};

// f32 as three TF32 products: with x = high + low, both TF32, x·w ≈ high·high + high·low + low·high, short of 2^-22 |x·w|.
// The tensor cores round their sums towards zero; so every step starts from zero and the CUDA cores add it, to nearest.
// A number that is not finite takes part in high·high only: infinity times a low part of zero would make a NaN.
struct MmaF32 {
  static constexpr int BYTES = 4, STEP = 8, OWN = 2;
  struct Parts { u32 high, finite, low; };
  static KS_DEVICE Parts split(u32 word) {
    const float x = float_of(word);
    const u32 high = round_tf32(x);
    const bool finite = (high & 0x7f800000u) != 0x7f800000u;
    return {high, finite ? high : 0u, finite ? round_tf32(x - float_of(high)) : 0u};
  }
  struct Data { u32 high[4], finite[4], low[4]; };
  struct Weights { u32 high[2], finite[2], low[2]; };
  static KS_DEVICE Data data(const u32 (&a)[4]) {
    Data r;
    KS_UNROLL
    for (int k = 0; k < 4; ++k) {
      const Parts p = split(a[k]);
      r.high[k] = p.high, r.finite[k] = p.finite, r.low[k] = p.low;
    }
    return r;
  }
  static KS_DEVICE Weights weights(u32 b0, u32 b1) {
    const Parts p0 = split(b0), p1 = split(b1);
    return {{p0.high, p1.high}, {p0.finite, p1.finite}, {p0.low, p1.low}};
  }
  static KS_DEVICE void multiply(float (&sum)[4], const Data& x, const Weights& w) {
    float part[4] = {0.f, 0.f, 0.f, 0.f};
    mma_tf32(part, x.low, w.finite[0], w.finite[1]);
    mma_tf32(part, x.finite, w.low[0], w.low[1]);
    mma_tf32(part, x.high, w.high[0], w.high[1]);
    KS_UNROLL
    for (int k = 0; k < 4; ++k) sum[k] += part[k];
  }
  static KS_DEVICE float load(const void* p) { return float_of(load_constant4(p)); }
  static KS_DEVICE float at(const u32* words, int k) { return float_of(words[k]); }
};

}  // namespace ks
