// A whole chain in one kernel, two factors or more of any patterns: a block takes ROWS vectors through all factors, and what passes
// between two factors stays in shared memory, in the order in which the next one reads it: terms l innermost, whatever d is. The
// tensor cores (mma.sync) are fed 16 bytes of a row at a time; the weights come straight from the second-level cache, in the order
// of the fragments, one lot ahead. X comes and Y goes by chunks of columns, through shared memory, in runs as long as the chunk.
// All masks are here: any n, b, c, d.
#pragma once
#include "args.cuh"
#include "chain_mma_tile.cuh"

namespace ks {

// `V` bytes of shared memory, and to and from global memory.
template <int V> KS_DEVICE U4 take(const u8* from) {
  U4 r = {};
  if constexpr (V == 16) r = load_shared16(from);
  else if constexpr (V == 8) { const U2 w = load_shared8(from); r.v[0] = w.v[0], r.v[1] = w.v[1]; }
  else if constexpr (V == 4) r.v[0] = load_shared4(from);
  else r.v[0] = load_shared2(from);
  return r;
}
template <int V> KS_DEVICE void send(u8* to, const U4& words) {
  if constexpr (V == 16) store_global16(to, words);
  else if constexpr (V == 8) store_global8(to, {{words.v[0], words.v[1]}});
  else if constexpr (V == 4) store_global4(to, words.v[0]);
  else store_global2(to, static_cast<u16>(words.v[0]));
}
template <int V> KS_DEVICE U4 fetch(const u8* from, bool valid) {
  U4 r = {};
  if (!valid) return r;
  if constexpr (V == 16) r = load_global16(from);
  else if constexpr (V == 8) { const U2 w = load_global8(from); r.v[0] = w.v[0], r.v[1] = w.v[1]; }
  else if constexpr (V == 4) r.v[0] = load_global4(from);
  else r.v[0] = load_global2(from);
  return r;
}

template <class S> struct ChainMma {
  using Number = typename S::Number;
  static constexpr int E = S::E, ROWS = S::ROWS, THREADS = S::THREADS, TILES = S::TILES, LENGTH = S::LENGTH;
  static constexpr bool LAST = S::LAYOUT == Layout::BatchLast;
  template <int K> using Factor = typename S::template Factor<K>;

  const Args& args;
  u8* const shared;
  const i64 n0;
  const int thread, lane, g, q, warp_row, warp_column;
  // Batch-last: the widest load and store that rows of n numbers allow.
  const int last_vector;

  KS_DEVICE explicit ChainMma(const Args& a)
      : args(a), shared(shared_memory()), n0(static_cast<i64>(block_index()) * ROWS), thread(thread_index()), lane(thread & 31), g(lane >> 2), q(lane & 3),
        warp_row(thread / 32 % S::ROW_WARPS), warp_column(thread / 32 / S::ROW_WARPS), last_vector(a.n * E % 16 == 0 ? 16 : a.n * E % 4 == 0 ? 4 : 2) {}

  KS_DEVICE u8* region(int k) const { return shared + (k % 2 ? S::FIRST_REGION : 0); }

  // Number `e` of a few words, to shared memory.
  static KS_DEVICE void put(u8* to, const U4& words, int e) {
    if constexpr (E == 4) store_shared4(to, words.v[e]);
    else store_shared2(to, static_cast<u16>(words.v[e / 2] >> (e % 2 * 16)));
  }

  // --- X to shared memory ------------------------------------------------------------------------------------------------------

  // Byte of column `column` of a chunk of X within a row.
  static KS_DEVICE int place(int column) {
    using F = Factor<0>;
    const int j = column % F::D, l = column / F::D % F::C, i = column / (F::D * F::C);
    return ((i * F::D + j) * S::template terms<0>() + l) * E;
  }

  KS_DEVICE void load_rows(u8* to, int chunk) const {
    using F = Factor<0>;
    constexpr int BLOCK = F::C * F::D * E, CHUNK = F::CHUNK_BLOCKS * BLOCK;
    constexpr i64 ROW = static_cast<i64>(F::A) * BLOCK;
    constexpr int V = smallest(S::ALIGN, smallest(vector_of(ROW), vector_of(CHUNK)));
    constexpr bool DIRECT = F::D == 1 && F::C * E % V == 0;
    const u8* from = static_cast<const u8*>(args.x) + n0 * ROW + static_cast<i64>(chunk) * CHUNK;
    const int rows = args.n - n0 < ROWS ? static_cast<int>(args.n - n0) : ROWS;
    share_pieces<THREADS, ROWS, CHUNK / V, false>(thread, [&](int line, int piece, int more) {
      const int row = line + more;
      const u8* source = from + row * ROW + piece * V;
      u8* target = to + row * S::template stride<0>();
      if constexpr (DIRECT) {
        copy_piece<V>(target + place(piece * (V / E)), source, row < rows);
      } else {
        const U4 words = fetch<V>(source, row < rows);
        KS_UNROLL
        for (int e = 0; e < V / E; ++e) put(target + place(piece * (V / E) + e), words, e);
      }
    });
  }

  template <int V> KS_DEVICE void load_lines(u8* to, int chunk) const {
    using F = Factor<0>;
    constexpr int COLUMNS = F::CHUNK_BLOCKS * F::C * F::D;
    const u8* from = static_cast<const u8*>(args.x) + (static_cast<i64>(chunk) * COLUMNS * args.n + n0) * E;
    share_pieces<THREADS, COLUMNS, ROWS * E / V, false>(thread, [&](int line, int piece, int more) {
      const int column = line + more, row = piece * (V / E);
      const U4 words = fetch<V>(from + (column * args.n + row) * E, n0 + row < args.n);
      u8* target = to + row * S::template stride<0>() + place(column);
      KS_UNROLL
      for (int e = 0; e < V / E; ++e) put(target + e * S::template stride<0>(), words, e);
    });
  }

  KS_DEVICE void load_chunk(u8* to, int chunk) const {
    if constexpr (!LAST) load_rows(to, chunk);
    else if (S::ALIGN == 16 && last_vector == 16) load_lines<16>(to, chunk);
    else if (S::ALIGN >= 4 && last_vector >= 4) load_lines<4>(to, chunk);
    else load_lines<E>(to, chunk);
  }

  // Zeros for the terms beyond C of what factor K reads.
  template <int K> KS_DEVICE void clear_padding(u8* to) const {
    using F = Factor<K>;
    constexpr int TERMS = S::template terms<K>(), PADDING = TERMS - F::C, BLOCKS = S::template blocks_held<K>();
    if constexpr (PADDING > 0) {
      for (int at = thread; at < ROWS * BLOCKS * PADDING; at += THREADS) {
        const int l = F::C + at % PADDING, block = at / PADDING % BLOCKS, row = at / (PADDING * BLOCKS);
        put(to + row * S::template stride<K>() + (block * TERMS + l) * E, U4{}, 0);
      }
    }
  }

  // --- products ----------------------------------------------------------------------------------------------------------------

  template <int K> using Sums = float[TILES][Factor<K>::COLUMNS][4];
  template <int K> using Fragments = U4[Factor<K>::COLUMNS];

  template <int K> KS_DEVICE void load_fragments(Fragments<K>& w, const u8* from) const {
    KS_UNROLL
    for (int c = 0; c < Factor<K>::COLUMNS; ++c) w[c] = load_constant16(from + c * S::FRAGMENT + lane * 16);
  }

  // A lot of terms: `from` is this thread's part of its first row.
  template <int K> static KS_DEVICE void multiply_lot(Sums<K>& sums, const u8* from, const Fragments<K>& w) {
    U4 x[TILES][2];
    KS_UNROLL
    for (int tile = 0; tile < TILES; ++tile)
      KS_UNROLL
      for (int half = 0; half < 2; ++half) x[tile][half] = load_shared16(from + (tile * 16 + half * 8) * S::template stride<K>());
    KS_UNROLL
    for (int step = 0; step < 2; ++step) {
      typename Number::Weights weights[Factor<K>::COLUMNS];
      KS_UNROLL
      for (int c = 0; c < Factor<K>::COLUMNS; ++c) weights[c] = Number::weights(w[c].v[step * 2], w[c].v[step * 2 + 1]);
      KS_UNROLL
      for (int tile = 0; tile < TILES; ++tile) {
        const u32 a[4] = {x[tile][0].v[step * 2], x[tile][1].v[step * 2], x[tile][0].v[step * 2 + 1], x[tile][1].v[step * 2 + 1]};
        const typename Number::Data data = Number::data(a);
        KS_UNROLL
        for (int c = 0; c < Factor<K>::COLUMNS; ++c) Number::multiply(sums[tile][c], data, weights[c]);
      }
    }
  }

  // Two sums of one output, of rows 8 apart, rounded.
  static KS_DEVICE void put_sums(u8* to, int stride, float first, float second) {
    if constexpr (E == 4) {
      store_shared4(to, bits(first)), store_shared4(to + 8 * stride, bits(second));
    } else {
      const u32 both = Number::pack(first, second);
      store_shared2(to, static_cast<u16>(both)), store_shared2(to + 8 * stride, static_cast<u16>(both >> 16));
    }
  }

  // The sums of block (i, j), outputs from `o0` on, to where factor K + 1 reads them.
  template <int K> KS_DEVICE void pass_on(const Sums<K>& sums, u8* to, int i, int j, int o0) const {
    using F = Factor<K>;
    using Next = Factor<K + 1>;
    constexpr int STRIDE = S::template stride<K + 1>();
    static_assert(F::A * F::B * F::D == Next::A * Next::C * Next::D, "one factor's rows are the next one's columns");
    u8* first = to + (warp_row * (TILES * 16) + g) * STRIDE;
    KS_UNROLL
    for (int c = 0; c < F::COLUMNS; ++c)
      KS_UNROLL
      for (int x = 0; x < 2; ++x) {
        const int o = o0 + c * 8 + q * 2 + x;
        if (F::B % F::OUTS != 0 && o >= F::B) continue;
        const u32 h = (i * F::B + o) * F::D + j, next_j = h % Next::D, next_l = h / Next::D % Next::C, next_i = h / (Next::D * Next::C);
        const int byte = ((next_i * Next::D + next_j) * S::template terms<K + 1>() + next_l) * E;
        KS_UNROLL
        for (int tile = 0; tile < TILES; ++tile) put_sums(first + byte + tile * 16 * STRIDE, STRIDE, sums[tile][c][x], sums[tile][c][2 + x]);
      }
  }

  // The same for the last factor: with bias and activation, as Y has them. `block` and `o0` count within the chunk, `feature` is its first one.
  template <int K> KS_DEVICE void give(const Sums<K>& sums, u8* to, int block, int j, int o0, int outs, int feature) const {
    using F = Factor<K>;
    u8* first = to + (warp_row * (TILES * 16) + g) * S::OUT_STRIDE;
    KS_UNROLL
    for (int c = 0; c < F::COLUMNS; ++c)
      KS_UNROLL
      for (int x = 0; x < 2; ++x) {
        const int o = o0 + c * 8 + q * 2 + x, column = (block * F::B + o) * F::D + j;
        if (F::B % F::OUTS != 0 && o >= outs) continue;
        // Two outputs that are joined meet when they are stored.
        constexpr Activation KIND = S::JOIN == Join::Gate ? Activation::None : S::KIND;
        const float bias = S::BIAS ? Number::load(static_cast<const u8*>(args.bias) + static_cast<i64>(feature + column) * E) : 0.f;
        KS_UNROLL
        for (int tile = 0; tile < TILES; ++tile)
          put_sums(first + column * E + tile * 16 * S::OUT_STRIDE, S::OUT_STRIDE, activate_sum<KIND>(sums[tile][c][x] + bias), activate_sum<KIND>(sums[tile][c][2 + x] + bias));
      }
  }

  // This warp's jobs of a chunk. `next` holds the first lot of weights of the first one; it leaves with that of the next chunk's.
  template <int K> KS_DEVICE void multiply_chunk(const u8* from, u8* to, int chunk, Fragments<K>& next) const {
    using F = Factor<K>;
    constexpr int JOB = S::template job_bytes<K>(), LOTS = S::template lots<K>();
    const int block0 = chunk / F::SPLITS * F::CHUNK_BLOCKS, tile0 = chunk % F::SPLITS * F::CHUNK_TILES;
    const u8* weights = static_cast<const u8*>(args.w) + S::template weights_before<K>() + static_cast<i64>(chunk) * F::JOBS * JOB;
    const u8* rows = from + (warp_row * (TILES * 16) + g) * S::template stride<K>() + q * 16;
    KS_UNROLL_BY(1)
    for (int job = warp_column; job < F::JOBS; job += S::COLUMN_WARPS) {
      const int tile = job % F::CHUNK_TILES, block = job / F::CHUNK_TILES;  // block counts (i, j) within the chunk
      const u8* ahead = weights + job * JOB;
      const bool more = job + S::COLUMN_WARPS < F::JOBS;
      const u8* then = more ? ahead + S::COLUMN_WARPS * JOB : chunk + 1 < F::CHUNKS ? weights + (F::JOBS + warp_column) * JOB : ahead;
      const u8* x = rows + (K == 0 ? block : block0 * F::D + block) * (S::template terms<K>() * E);
      Sums<K> sums;
      KS_UNROLL
      for (int t = 0; t < TILES; ++t)
        KS_UNROLL
        for (int c = 0; c < F::COLUMNS; ++c)
          KS_UNROLL
          for (int s = 0; s < 4; ++s) sums[t][c][s] = 0.f;
      KS_UNROLL_BY(2)
      for (int lot = 0; lot < LOTS; ++lot) {
        Fragments<K> now;
        KS_UNROLL
        for (int c = 0; c < F::COLUMNS; ++c) now[c] = next[c];
        ahead = lot + 1 < LOTS ? ahead + F::COLUMNS * S::FRAGMENT : then;
        load_fragments<K>(next, ahead);
        multiply_lot<K>(sums, x + lot * 64, now);
      }
      if constexpr (K + 1 < LENGTH) pass_on<K>(sums, to, block0 + block / F::D, block % F::D, (tile0 + tile) * F::OUTS);
      else give<K>(sums, to, block / F::D, block % F::D, tile * F::OUTS, F::B - tile0 * F::OUTS, (block0 * F::B + tile0 * F::OUTS) * F::D);
    }
  }

  // --- Y from shared memory ----------------------------------------------------------------------------------------------------

  // V bytes of Y from what `words` has of the sums (for a gate, and what `more` has, the second half), and of the residual.
  template <int V> static KS_DEVICE U4 join(const U4& words, const U4& more, const U4& residual) {
    if constexpr (S::JOIN == Join::None) return words;
    constexpr int COUNT = V / E;
    float v[COUNT + 1] = {};
    KS_UNROLL
    for (int k = 0; k < COUNT; ++k) {
      if constexpr (S::JOIN == Join::Gate) {
        const auto sum = [&](int at) { return at < COUNT ? Number::at(words.v, at) : Number::at(more.v, at - COUNT); };
        v[k] = activate_sum<S::KIND>(sum(2 * k)) * sum(2 * k + 1);
      } else {
        v[k] = Number::at(words.v, k) + Number::at(residual.v, k);
      }
    }
    U4 result = {};
    KS_UNROLL
    for (int k = 0; k < COUNT; k += 4 / E) {
      if constexpr (E == 4) result.v[k] = bits(v[k]);
      else result.v[k / 2] = Number::pack(v[k], v[k + 1]);
    }
    return result;
  }

  KS_DEVICE void store_rows(const u8* from, i64 column0, int columns) const {
    using F = typename S::Last;
    constexpr int OF = S::OUTPUTS_OF;
    constexpr i64 ROW = static_cast<i64>(F::A) * F::B * F::D * E / OF;
    constexpr int V = smallest(smallest(S::ALIGN, vector_of(ROW)), smallest(vector_of(F::B * F::D * E / OF), vector_of(S::OUT_COLUMNS * E / OF)));
    const int rows = args.n - n0 < ROWS ? static_cast<int>(args.n - n0) : ROWS;
    const i64 first = n0 * ROW + column0 * E / OF;
    u8* to = static_cast<u8*>(args.y) + first;
    share_pieces<THREADS, ROWS, S::OUT_COLUMNS * E / OF / V, false>(thread, [&](int line, int piece, int more) {
      const int row = line + more;
      if (row >= rows || piece * V >= columns * E / OF) return;
      const u8* at = from + row * S::OUT_STRIDE + piece * (V * OF);
      U4 second = {}, residual = {};
      if constexpr (S::JOIN == Join::Gate) second = take<V>(at + V);
      if constexpr (S::JOIN == Join::Residual) residual = fetch<V>(static_cast<const u8*>(args.residual) + first + row * ROW + piece * V, true);
      send<V>(to + row * ROW + piece * V, join<V>(take<V>(at), second, residual));
    });
  }

  template <int V> KS_DEVICE void store_lines(const u8* from, i64 column0, int columns) const {
    constexpr int OF = S::OUTPUTS_OF;
    share_pieces<THREADS, S::OUT_COLUMNS / OF, ROWS * E / V, false>(thread, [&](int line, int piece, int more) {
      const int column = line + more, row = piece * (V / E);
      if (column >= columns / OF || n0 + row >= args.n) return;
      const i64 place = ((column0 / OF + column) * args.n + n0 + row) * E;
      // A line of sums, and for a gate the next one; number e of both is joined.
      const auto gather = [&](int offset) {
        const u8* at = from + row * S::OUT_STRIDE + (column * OF + offset) * E;
        U4 r = {};
        KS_UNROLL
        for (int e = 0; e < V / E; ++e) {
          if constexpr (E == 4) r.v[e] = load_shared4(at + e * S::OUT_STRIDE);
          else r.v[e / 2] |= static_cast<u32>(load_shared2(at + e * S::OUT_STRIDE)) << (e % 2 * 16);
        }
        return r;
      };
      const U4 sums = gather(0);
      if constexpr (S::JOIN == Join::Gate) {
        const U4 others = gather(1);
        U4 result = {};
        KS_UNROLL
        for (int e = 0; e < V / E; e += 4 / E) {
          const auto gated = [&](int k) { return activate_sum<S::KIND>(Number::at(sums.v, k)) * Number::at(others.v, k); };
          if constexpr (E == 4) result.v[e] = bits(gated(e));
          else result.v[e / 2] = Number::pack(gated(e), e + 1 < V / E ? gated(e + 1) : 0.f);
        }
        send<V>(static_cast<u8*>(args.y) + place, result);
      } else {
        U4 residual = {};
        if constexpr (S::JOIN == Join::Residual) residual = fetch<V>(static_cast<const u8*>(args.residual) + place, true);
        send<V>(static_cast<u8*>(args.y) + place, join<V>(sums, {}, residual));
      }
    });
  }

  KS_DEVICE void store_chunk(const u8* from, int chunk) const {
    using F = typename S::Last;
    const int block0 = chunk / F::SPLITS * F::CHUNK_BLOCKS, out0 = chunk % F::SPLITS * F::CHUNK_OUTS;
    const i64 column0 = (static_cast<i64>(block0) * F::B + out0) * F::D;
    const int columns = F::SPLITS == 1 ? S::OUT_COLUMNS : smallest(F::B - out0, F::CHUNK_OUTS) * F::D;
    if constexpr (!LAST) store_rows(from, column0, columns);
    else if (S::ALIGN == 16 && last_vector == 16) store_lines<16>(from, column0, columns);
    else if (S::ALIGN >= 4 && last_vector >= 4) store_lines<4>(from, column0, columns);
    else store_lines<E>(from, column0, columns);
  }

  // --- one factor after the other ----------------------------------------------------------------------------------------------

  template <int K> KS_DEVICE void run() const {
    using F = Factor<K>;
    const u8* from = region(K);
    u8* to = region(K + 1);
    Fragments<K> next;
    if (warp_column < F::JOBS) load_fragments<K>(next, static_cast<const u8*>(args.w) + S::template weights_before<K>() + warp_column * S::template job_bytes<K>());
    if constexpr (K == 0) {
      KS_UNROLL
      for (int buffer = 0; buffer < S::BUFFERS; ++buffer) clear_padding<0>(shared + buffer * S::BUFFER_BYTES);
      load_chunk(shared, 0);
      copy_commit();
    }
    if constexpr (K + 1 < LENGTH) clear_padding<K + 1>(to);
    KS_UNROLL_BY(1)
    for (int chunk = 0; chunk < F::CHUNKS; ++chunk) {
      int buffer = 0;
      if constexpr (K == 0) {
        if constexpr (S::BUFFERS == 2) {
          buffer = chunk % 2 * S::BUFFER_BYTES;
          if (chunk + 1 < F::CHUNKS) load_chunk(shared + (S::BUFFER_BYTES - buffer), chunk + 1);
        }
        copy_commit();
        copy_wait<1>();
        sync_block();
      }
      multiply_chunk<K>(from + buffer, to, chunk, next);
      // All have written to `to`, and nobody reads `from` any more.
      sync_block();
      if constexpr (K + 1 == LENGTH) {
        store_chunk(to, chunk);
        if (chunk + 1 < F::CHUNKS) sync_block();
      }
    }
    if constexpr (K + 1 < LENGTH) run<K + 1>();
  }
};

template <class S> KS_DEVICE void chain_mma(const Args& args) { ChainMma<S>(args).template run<0>(); }

}  // namespace ks
