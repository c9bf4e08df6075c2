// Outputs of lanes_mma as words: rounded, joined with a residual or with each other, moved as wide as their addresses allow.
#pragma once
#include "mma_number.cuh"

namespace ks {

template <class Number, Activation KIND, Join JOIN> struct MmaWords {
  static constexpr int E = Number::BYTES, OF = outputs_of(JOIN);

  // Two neighbouring numbers of the output as one word, or one f32.
  static KS_DEVICE u32 word(float first, float second) {
    if constexpr (E == 2) return Number::pack(first, second);
    else return bits(first);
  }

  static constexpr int PER_WORD = 4 / E;

  // VECTOR bytes of global memory, as words that follow each other.
  template <int VECTOR> static KS_DEVICE void load_words(u32* words, const u8* from) {
    if constexpr (VECTOR == 16) { const U4 w = load_global16(from); words[0] = w.v[0], words[1] = w.v[1], words[2] = w.v[2], words[3] = w.v[3]; }
    else if constexpr (VECTOR == 8) { const U2 w = load_global8(from); words[0] = w.v[0], words[1] = w.v[1]; }
    else if constexpr (VECTOR == 4) words[0] = load_global4(from);
    else words[0] = load_global2(from);
  }
  template <int VECTOR> static KS_DEVICE U4 take_shared(const u8* from) {
    U4 r = {};
    if constexpr (VECTOR == 16) r = load_shared16(from);
    else if constexpr (VECTOR == 8) { const U2 w = load_shared8(from); r.v[0] = w.v[0], r.v[1] = w.v[1]; }
    else if constexpr (VECTOR == 4) r.v[0] = load_shared4(from);
    else r.v[0] = load_shared2(from);
    return r;
  }

  // The residual of BYTES bytes of Y, of which `valid` are there, added to their numbers, of which the last word may have one.
  template <int BYTES, int VECTOR> static KS_DEVICE void add_residual(u32* words, const u8* residual, int valid) {
    KS_UNROLL
    for (int b = 0; b < BYTES; b += VECTOR) {
      if (b >= valid) continue;
      u32 more[VECTOR < 4 ? 1 : VECTOR / 4];
      load_words<VECTOR>(more, residual + b);
      KS_UNROLL
      for (int k = 0; k < VECTOR / E; ++k) {
        const int number = b / E + k;
        put_number(words, number, Number::at(words + number / PER_WORD, number % PER_WORD) + Number::at(more + k / PER_WORD, k % PER_WORD));
      }
    }
  }
  // Number `k` of a few words is changed.
  static KS_DEVICE void put_number(u32* words, int k, float value) {
    u32& at = words[k / PER_WORD];
    if constexpr (E == 4) at = bits(value);
    else at = k % 2 ? (at & 0xffffu) | Number::pack(0.f, value) : (at & 0xffff0000u) | (Number::pack(value, 0.f) & 0xffffu);
  }
  static KS_DEVICE float gated(float gate, float up) { return activate_sum<KIND>(gate) * up; }
  // The widest access to half as many numbers.
  static KS_DEVICE constexpr int halved(int vector) { return vector / OF > E ? vector / OF : E; }
  // What a gate leaves of COUNT numbers: half as many.
  template <int COUNT> static KS_DEVICE void gate_words(u32* words) {
    KS_UNROLL
    for (int k = 0; k < COUNT / 2; ++k) {
      const float up = Number::at(words + (2 * k + 1) / PER_WORD, (2 * k + 1) % PER_WORD);
      put_number(words, k, gated(Number::at(words + 2 * k / PER_WORD, 2 * k % PER_WORD), up));
    }
  }

  // What a gate leaves of VECTOR bytes and the VECTOR bytes after them.
  template <int VECTOR> static KS_DEVICE U4 gate_units(const U4& first, const U4& second) {
    u32 all[8] = {first.v[0], first.v[1], first.v[2], first.v[3]};
    KS_UNROLL
    for (int k = 0; k < VECTOR / E; ++k) put_number(all, VECTOR / E + k, Number::at(second.v, k));
    gate_words<2 * VECTOR / E>(all);
    return {{all[0], all[1], all[2], all[3]}};
  }

  // The first `valid` bytes of BYTES bytes in `words`, VECTOR at a time; `valid` is a multiple of VECTOR.
  template <int BYTES, int VECTOR> static KS_DEVICE void store_words(u8* to, const u32* words, int valid) {
    KS_UNROLL
    for (int b = 0; b < BYTES; b += VECTOR) {
      if (b >= valid) continue;
      if constexpr (VECTOR == 16) store_global16(to + b, {{words[b / 4], words[b / 4 + 1], words[b / 4 + 2], words[b / 4 + 3]}});
      else if constexpr (VECTOR == 8) store_global8(to + b, {{words[b / 4], words[b / 4 + 1]}});
      else if constexpr (VECTOR == 4) store_global4(to + b, words[b / 4]);
      else store_global2(to + b, static_cast<u16>(words[b / 4] >> (b % 4 * 8)));
    }
  }
};

}  // namespace ks
