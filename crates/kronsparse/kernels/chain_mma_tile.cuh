// The numbers of a `chain_mma` kernel: the factors of a chain in the order of application, how the work of each is cut, and where
// the numbers between two factors stand in shared memory. The host (plan/gpu/chain_mma) prints the arguments and computes the same.
#pragma once
#include "epilogue.cuh"
#include "mma_number.cuh"
#include "pieces.cuh"

namespace ks {

// One factor (A, B, C, D). A warp multiplies one block (i, j) for 8 · COLUMNS outputs at a time: a job. The jobs of CHUNK_BLOCKS
// blocks i and CHUNK_TILES tiles of outputs are a chunk: what is brought together of X, or stored together of Y.
template <int A_, int B_, int C_, int D_, int COLUMNS_, int CHUNK_BLOCKS_, int CHUNK_TILES_> struct ChainFactor {
  static constexpr int A = A_, B = B_, C = C_, D = D_, COLUMNS = COLUMNS_, CHUNK_BLOCKS = CHUNK_BLOCKS_, CHUNK_TILES = CHUNK_TILES_;
  static constexpr int OUTS = 8 * COLUMNS, OUT_TILES = ceil_div(B, OUTS);
  static constexpr int SPLITS = OUT_TILES / CHUNK_TILES;               // chunks that share blocks i
  static constexpr int CHUNKS = A / CHUNK_BLOCKS * SPLITS, JOBS = CHUNK_BLOCKS * D * CHUNK_TILES;
  static constexpr int CHUNK_OUTS = smallest(B, CHUNK_TILES * OUTS);   // outputs o of a chunk; the last one may have fewer
  static_assert(A % CHUNK_BLOCKS == 0 && OUT_TILES % CHUNK_TILES == 0, "chunks are whole");
  static_assert(CHUNK_BLOCKS == 1 || SPLITS == 1, "a chunk is contiguous in Y");
};

template <int K, class F, class... Rest> struct ChainPick { using Type = typename ChainPick<K - 1, Rest...>::Type; };
template <class F, class... Rest> struct ChainPick<0, F, Rest...> { using Type = F; };

template <class Number_, Layout LAYOUT_, Activation KIND_, bool BIAS_, Join JOIN_, int ROWS_, int ROW_WARPS_, int COLUMN_WARPS_, int ALIGN_, int SHARED_, class... Factors>
struct ChainTile {
  using Number = Number_;
  static constexpr Layout LAYOUT = LAYOUT_;
  static constexpr Activation KIND = KIND_;
  static constexpr bool BIAS = BIAS_;
  static constexpr Join JOIN = JOIN_;
  static constexpr int OUTPUTS_OF = outputs_of(JOIN);
  static constexpr int ROWS = ROWS_, ROW_WARPS = ROW_WARPS_, COLUMN_WARPS = COLUMN_WARPS_, ALIGN = ALIGN_;
  static constexpr int E = Number::BYTES, THREADS = 32 * ROW_WARPS * COLUMN_WARPS, TILES = ROWS / (16 * ROW_WARPS), LENGTH = sizeof...(Factors);
  static_assert(ROWS == 16 * ROW_WARPS * TILES && LENGTH >= 2, "a warp has whole tiles of 16 vectors; a chain has two factors or more");
  template <int K> using Factor = typename ChainPick<K, Factors...>::Type;

  // 16 bytes of each of the four threads of a row: a lot of terms, two steps of mma. Terms beyond C are zeros.
  static constexpr int LOT = 64 / E, FRAGMENT = 512;
  template <int K> static constexpr int lots() { return ceil_div(Factor<K>::C, LOT); }
  template <int K> static constexpr int terms() { return lots<K>() * LOT; }
  template <int K> static constexpr int job_bytes() { return lots<K>() * Factor<K>::COLUMNS * FRAGMENT; }
  // Where the weights of factor K start.
  template <int K> static constexpr i64 weights_before() {
    if constexpr (K == 0) return 0;
    else return weights_before<K - 1>() + static_cast<i64>(Factor<K - 1>::CHUNKS) * Factor<K - 1>::JOBS * job_bytes<K - 1>();
  }

  // What factor K reads: rows of blocks (i, j), terms l innermost. Two rows that are read together differ by half of the banks.
  template <int K> static constexpr int blocks_held() { return (K == 0 ? Factor<K>::CHUNK_BLOCKS : Factor<K>::A) * Factor<K>::D; }
  template <int K> static constexpr int stride() {
    constexpr int bytes = blocks_held<K>() * terms<K>() * E;
    return bytes % 128 == 64 ? bytes : bytes + 64;
  }
  static constexpr int BUFFERS = Factor<0>::CHUNKS > 1 ? 2 : 1, BUFFER_BYTES = ROWS * stride<0>();
  // A chunk of Y as it lies in device memory. Rows are an odd number of 16 bytes apart.
  using Last = Factor<LENGTH - 1>;
  static constexpr int OUT_COLUMNS = Last::CHUNK_BLOCKS * Last::CHUNK_OUTS * Last::D;
  static_assert(JOIN != Join::Gate || (Last::B * Last::D % 2 == 0 && OUT_COLUMNS % 2 == 0), "a chunk has both outputs that are joined");
  static constexpr int OUT_STRIDE = (OUT_COLUMNS * E + 15) / 16 % 2 == 1 ? (OUT_COLUMNS * E + 15) / 16 * 16 : (OUT_COLUMNS * E + 15) / 16 * 16 + 16;

  // Two regions take turns: factor K reads number K % 2 and writes the other one.
  template <int K> static constexpr int held() { return K == LENGTH ? ROWS * OUT_STRIDE : K == 0 ? BUFFERS * BUFFER_BYTES : ROWS * stride<K % LENGTH>(); }
  template <int K> static constexpr int region() {
    if constexpr (K + 2 <= LENGTH) return held<K>() > region<K + 2>() ? held<K>() : region<K + 2>();
    else return held<K>();
  }
  static constexpr int FIRST_REGION = region<0>();
  static_assert(FIRST_REGION + region<1>() == SHARED_, "the host and the kernel disagree on the shared memory");
};

}  // namespace ks
