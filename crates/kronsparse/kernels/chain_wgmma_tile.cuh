// The numbers of a `chain_wgmma` kernel: the factors of a chain in the order of application, how the work of each is cut, what
// comes through the ring, and where the numbers between two factors stand. The host (plan/gpu/chain_wgmma) prints the arguments and
// computes the same.
#pragma once
#include "args.cuh"
#include "epilogue.cuh"
#include "pieces.cuh"
#include "types.cuh"

namespace ks {

// One factor (A, B, C, D). A warpgroup multiplies one block (i, j) for OUTS outputs at a time, the last factor for all of its
// lanes j at once; DEPTH steps of 16 terms come together. The first factor is multiplied line by line of X, with all outputs.
template <int A_, int B_, int C_, int D_, int OUTS_, int DEPTH_> struct WgmmaFactor {
  static constexpr int A = A_, B = B_, C = C_, D = D_, OUTS = OUTS_, DEPTH = DEPTH_;
  static constexpr int OUT_TILES = ceil_div(B, OUTS), STEPS = ceil_div(C, 16), CHUNKS = STEPS / DEPTH;
  // Numbers from one block to the next in shared memory. Where that is whole lines, chunks begin lines, and every distance is known.
  static constexpr int TERMS = C > 32 ? ceil_div(C, 64) * 64 : STEPS * 16;
  static constexpr bool ALIGNED = TERMS % 64 == 0 && (DEPTH % 4 == 0 || CHUNKS == 1);
  static constexpr int LINES = ceil_div(A * D * TERMS, 64);  // of 64 inputs, padded
  static_assert(STEPS % DEPTH == 0 && OUTS % 8 == 0, "chunks are whole");
};

template <int K, class F, class... Rest> struct WgmmaPick { using Type = typename WgmmaPick<K - 1, Rest...>::Type; };
template <class F, class... Rest> struct WgmmaPick<0, F, Rest...> { using Type = F; };

template <class T_, Activation ACTIVATION_, bool BIAS_, Join JOIN_, int CLUSTER_, int GROUPS_, int STAGES_, int CONSUMER_REGISTERS_, int SHARED_, class... Factors>
struct ChainWgmmaTile {
  using T = T_;
  static constexpr Activation ACTIVATION = ACTIVATION_;
  static constexpr bool BIAS = BIAS_;
  static constexpr Join JOIN = JOIN_;
  static_assert(JOIN != Join::Gate, "a box of Y has as many columns as outputs");
  static constexpr int CLUSTER = CLUSTER_;  // blocks that share what is read of the weights
  static constexpr int GROUPS = GROUPS_, STAGES = STAGES_, LENGTH = sizeof...(Factors);  // warpgroups that multiply 64 vectors each; stages of the ring
  // Zero where registers stay as they were given out.
  static constexpr int CONSUMER_REGISTERS = CONSUMER_REGISTERS_, PRODUCER_REGISTERS = 40, ROWS = 64 * GROUPS;
  template <int K> using Factor = typename WgmmaPick<K, Factors...>::Type;
  using First = Factor<0>;
  using Last = Factor<LENGTH - 1>;

  // The first factor: a line of 64 columns of X, all vectors, with its weights.
  static constexpr int BLOCKS = First::C < 64 ? 64 / First::C : 1;  // blocks i of a line
  static constexpr int TURNS = First::C < 64 ? 1 : First::C / 64;   // lines of a block i
  static constexpr int X_BYTES = ROWS * 128, STEP_BYTES = First::OUTS * 32, FIRST_BYTES = 4 * STEP_BYTES;
  static constexpr int BRINGS = First::A * First::C / 64;
  static_assert(First::D == 1 && First::A * First::C % 64 == 0 && (64 % First::C == 0 || First::C % 64 == 0), "lines of X are whole");
  static_assert(First::A % BLOCKS == 0 && First::OUT_TILES == 1, "the first factor's outputs come together");

  // The others: jobs of chunks of weights.
  template <int K> static constexpr int lanes() { return K + 1 == LENGTH ? Factor<K>::D : 1; }  // of a job
  template <int K> static constexpr int jobs() { return Factor<K>::A * (Factor<K>::D / lanes<K>()) * Factor<K>::OUT_TILES; }
  template <int K> static constexpr int chunk_bytes() { return Factor<K>::DEPTH * lanes<K>() * Factor<K>::OUTS * 32; }
  template <int K> static constexpr int uses() { return K == 0 ? BRINGS : jobs<K>() * Factor<K>::CHUNKS; }
  template <int K> static constexpr i64 weights_before() {
    if constexpr (K == 0) return 0;
    else return weights_before<K - 1>() + static_cast<i64>(uses<K - 1>()) * (K == 1 ? FIRST_BYTES : chunk_bytes<K - 1>());
  }
  template <int K> static constexpr int uses_before() {
    if constexpr (K == 0) return 0;
    else return uses_before<K - 1>() + uses<K - 1>();
  }
  static constexpr int USES = uses_before<LENGTH - 1>() + uses<LENGTH - 1>();
  template <int K> static constexpr int largest() {
    if constexpr (K == 0) return X_BYTES + FIRST_BYTES;
    else return chunk_bytes<K>() > largest<K - 1>() ? chunk_bytes<K>() : largest<K - 1>();
  }
  static constexpr int STAGE_BYTES = (largest<LENGTH - 1>() + 1023) / 1024 * 1024;

  // What factor K reads, of a warpgroup: lines of 64 rows × 128 bytes, swizzled; one place for each K.
  static constexpr int LINE_BYTES = 64 * 128;
  template <int K> static constexpr int hidden_before() {
    if constexpr (K <= 1) return 0;
    else return hidden_before<K - 1>() + Factor<K - 1>::LINES * LINE_BYTES;
  }
  static constexpr int HIDDEN_BYTES = hidden_before<LENGTH - 1>() + Last::LINES * LINE_BYTES;
  // 64 columns of Y of a warpgroup, twice.
  static constexpr int RUN = Last::OUTS * Last::D, BOXES = RUN / 64;
  static_assert(RUN % 64 == 0 && (Last::A == 1 || Last::B % Last::OUTS == 0), "boxes of Y are whole");
  static constexpr int SHARED = STAGES * STAGE_BYTES + GROUPS * (HIDDEN_BYTES + 2 * LINE_BYTES) + 16 * STAGES + 8 * GROUPS;
  // Who has the turn reads all of a job's stages before anybody else does.
  static_assert(GROUPS == 1 || Last::CHUNKS <= STAGES, "a job's chunks are in the ring together");
  static_assert(SHARED == SHARED_, "the host and the kernel disagree on the shared memory");

  // Whether eight outputs of factor K in a row (in an order that the host packs) are eight terms in a row of the next one.
  template <int K> static constexpr bool in_units() {
    using F = Factor<K>;
    using Next = Factor<K + 1>;
    return F::D == 1 && F::B % (8 * Next::D) == 0 && Next::C % 8 == 0 && F::OUTS % 32 == 0;
  }
};

}  // namespace ks
