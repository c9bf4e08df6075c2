// Names of the element types for template arguments, and how numbers of each are stored.
#pragma once
#include "ptx.cuh"

namespace ks {

// `Sum` is the accumulator of the CUDA cores; `constant` loads weights and bias, which no kernel writes that this one may overlap with. Indices count elements; addresses need only the alignment of one element.
// `Raw` is what a load brings, and `value` its number: who loads many numbers turns them into sums later, since that waits for the load.
template <class E> struct Loads {
  static KS_DEVICE auto load(const void* from, i64 at) { return E::value(E::raw(from, at)); }
  static KS_DEVICE auto constant(const void* from, i64 at) { return E::value(E::raw_constant(from, at)); }
};
struct F16 : Loads<F16> {
  using Sum = float;
  using Raw = u16;
  static KS_DEVICE Raw raw(const void* from, i64 at) { return load_global2(static_cast<const u16*>(from) + at); }
  static KS_DEVICE Raw raw_constant(const void* from, i64 at) { return load_constant2(static_cast<const u16*>(from) + at); }
  static KS_DEVICE Sum value(Raw raw) { return widen_f16(raw); }
  static KS_DEVICE void store(void* to, i64 at, Sum value) { store_global2(static_cast<u16*>(to) + at, round_f16(value)); }
};
struct BF16 : Loads<BF16> {
  using Sum = float;
  using Raw = u16;
  static KS_DEVICE Raw raw(const void* from, i64 at) { return load_global2(static_cast<const u16*>(from) + at); }
  static KS_DEVICE Raw raw_constant(const void* from, i64 at) { return load_constant2(static_cast<const u16*>(from) + at); }
  static KS_DEVICE Sum value(Raw raw) { return widen_bf16(raw); }
  static KS_DEVICE void store(void* to, i64 at, Sum value) { store_global2(static_cast<u16*>(to) + at, round_bf16(value)); }
};
using Bf16 = BF16;
// On tensor cores: three TF32 products.
struct F32 : Loads<F32> {
  using Sum = float;
  using Raw = float;
  static KS_DEVICE Raw raw(const void* from, i64 at) { return float_of(load_global4(static_cast<const float*>(from) + at)); }
  static KS_DEVICE Raw raw_constant(const void* from, i64 at) { return float_of(load_constant4(static_cast<const float*>(from) + at)); }
  static KS_DEVICE Sum value(Raw raw) { return raw; }
  static KS_DEVICE void store(void* to, i64 at, Sum value) { store_global4(static_cast<float*>(to) + at, bits(value)); }
};
// Stored as f32, multiplied with 10 bits after the point.
struct TF32 : F32 {};
struct F64 : Loads<F64> {
  using Sum = double;
  using Raw = double;
  static KS_DEVICE Raw raw(const void* from, i64 at) { return double_of(load_global8(static_cast<const double*>(from) + at)); }
  static KS_DEVICE Raw raw_constant(const void* from, i64 at) { return double_of(load_constant8(static_cast<const double*>(from) + at)); }
  static KS_DEVICE Sum value(Raw raw) { return raw; }
  static KS_DEVICE void store(void* to, i64 at, Sum value) { store_global8(static_cast<double*>(to) + at, words_of(value)); }
};

// Bytes of a stored number.
template <class T> struct Bytes { static constexpr int value = 4; };
template <> struct Bytes<F16> { static constexpr int value = 2; };
template <> struct Bytes<BF16> { static constexpr int value = 2; };
template <> struct Bytes<F64> { static constexpr int value = 8; };

template <class A, class B> struct IsSame { static constexpr bool value = false; };
template <class A> struct IsSame<A, A> { static constexpr bool value = true; };

// What the tensor cores multiply.
template <class T> struct Multiply { using Type = T; };
template <> struct Multiply<F32> { using Type = TF32; };

// Two f32 numbers rounded to a word of a 16-bit type, and back.
template <class T> struct Pair;
template <> struct Pair<F16> {
  static KS_DEVICE u32 pack(float low, float high) { return pack_f16(low, high); }
  static KS_DEVICE float at(u32 word, int k) { return widen_f16(static_cast<u16>(word >> (16 * k))); }
};
template <> struct Pair<BF16> {
  static KS_DEVICE u32 pack(float low, float high) { return pack_bf16(low, high); }
  static KS_DEVICE float at(u32 word, int k) { return widen_bf16(static_cast<u16>(word >> (16 * k))); }
};

// f32 numbers rounded to 16 bytes of the stored type, and number `k` of these.
template <class T> struct Pack {
  static KS_DEVICE float at(const U4& unit, int k) { return float_of(unit.v[k]); }
  static KS_DEVICE U4 unit(const float (&v)[4]) { return {{bits(v[0]), bits(v[1]), bits(v[2]), bits(v[3])}}; }
};
template <> struct Pack<F16> {
  static KS_DEVICE float at(const U4& unit, int k) { return Pair<F16>::at(unit.v[k / 2], k % 2); }
  static KS_DEVICE U4 unit(const float (&v)[8]) { return {{pack_f16(v[0], v[1]), pack_f16(v[2], v[3]), pack_f16(v[4], v[5]), pack_f16(v[6], v[7])}}; }
};
template <> struct Pack<BF16> {
  static KS_DEVICE float at(const U4& unit, int k) { return Pair<BF16>::at(unit.v[k / 2], k % 2); }
  static KS_DEVICE U4 unit(const float (&v)[8]) { return {{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])}}; }
};

}  // namespace ks
