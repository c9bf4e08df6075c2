// A whole chain in one kernel on Hopper, two factors or more: a block takes 64 · GROUPS vectors through all factors, and what passes
// between two factors stays in shared memory, as wgmma wants its A: terms l innermost, in swizzled lines. A producer brings X line by line
// and all weights through one ring, once for all warpgroups; each warpgroup multiplies 64 vectors and waits for nobody else. Y leaves
// through the copy engine.
//
// The host (plan/gpu/chain_wgmma) prints a `ChainWgmmaTile`, packs the weights, and makes the tensor maps of X and Y.
#pragma once
#include "chain_wgmma_tile.cuh"

namespace ks {

template <class S> struct ChainWgmma {
  using T = typename S::T;
  static constexpr int LENGTH = S::LENGTH;
  template <int K> using Factor = typename S::template Factor<K>;
  template <int K> using Core = WgmmaShared<typename Multiply<T>::Type, Factor<K>::OUTS>;

  const Args& args;
  const TensorMap *const x_map, *const y_map;
  u8 *const ring, *const hidden, *const staging;
  u64 *const full, *const empty, *const turn;
  // Of vectors, of the blocks of a cluster together.
  const i64 tiles, cluster, clusters;
  const u32 rank;

  KS_DEVICE ChainWgmma(const Args& a, const TensorMap* x, const TensorMap* y)
      : args(a), x_map(x), y_map(y), ring(shared_memory()), hidden(ring + S::STAGES * S::STAGE_BYTES), staging(hidden + S::GROUPS * S::HIDDEN_BYTES),
        full(reinterpret_cast<u64*>(staging + S::GROUPS * 2 * S::LINE_BYTES)), empty(full + S::STAGES), turn(empty + S::STAGES), tiles((a.n + S::CLUSTER * S::ROWS - 1) / (S::CLUSTER * S::ROWS)),
        cluster(block_index() / S::CLUSTER), clusters(grid_size() / S::CLUSTER), rank(S::CLUSTER > 1 ? cluster_rank() : 0) {}

  // The first of this block's vectors of a tile.
  KS_DEVICE i64 row_of(i64 tile) const { return (tile * S::CLUSTER + rank) * S::ROWS; }

  // --- one thread brings everything ---------------------------------------------------------------------------------------------

  struct Place {
    int stage;
    u32 parity;
    KS_DEVICE void next() {
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
  };

  // Weights that all blocks of the cluster get: each one reads a part of them.
  template <int BYTES> KS_DEVICE void share(u8* to, const u8* from, u64* arrived) const {
    if constexpr (S::CLUSTER == 1) {
      bulk_load(to, from, BYTES, arrived);
    } else {
      constexpr int PART = BYTES / S::CLUSTER;
      static_assert(PART % 16 == 0, "parts are whole");
      bulk_load_multicast(to + rank * PART, from + rank * PART, PART, arrived, (1 << S::CLUSTER) - 1);
    }
  }

  // Weights of factor K and of all later ones; `next` is the tile that comes after.
  template <int K> KS_DEVICE void bring(Place& at, i64 next) const {
    const u8* w = static_cast<const u8*>(args.w) + S::template weights_before<K>();
    constexpr int BYTES = S::template chunk_bytes<K>();
    KS_UNROLL_BY(1)
    for (int use = 0; use < S::template uses<K>(); ++use) {
      barrier_wait(&empty[at.stage], at.parity);
      barrier_expect(&full[at.stage], BYTES);
      share<BYTES>(ring + at.stage * S::STAGE_BYTES, w + use * BYTES, &full[at.stage]);
      at.next();
      if constexpr (K + 1 == LENGTH) {
        // While nothing else is read from device memory, the next tile's X comes to the second-level cache.
        if (next < tiles) {
          constexpr int USES = S::template uses<K>();
          for (int line = use * S::BRINGS / USES; line < (use + 1) * S::BRINGS / USES; ++line)
            tensor_prefetch_box(x_map, line * 64, static_cast<int>(row_of(next)), 0, 0);
        }
      }
    }
    if constexpr (K + 1 < LENGTH) bring<K + 1>(at, next);
  }

  KS_DEVICE void produce() const {
    Place at{0, 1};
    wait_for_previous();
    for (i64 t = cluster; t < tiles; t += clusters) {
      KS_UNROLL_BY(1)
      for (int line = 0; line < S::BRINGS; ++line) {
        barrier_wait(&empty[at.stage], at.parity);
        u8* to = ring + at.stage * S::STAGE_BYTES;
        barrier_expect(&full[at.stage], S::X_BYTES + S::FIRST_BYTES);
        tensor_load(to, x_map, &full[at.stage], line * 64, static_cast<int>(row_of(t)), 0, 0);
        share<S::FIRST_BYTES>(to + S::X_BYTES, static_cast<const u8*>(args.w) + line * S::FIRST_BYTES, &full[at.stage]);
        at.next();
      }
      bring<1>(at, t + clusters);
    }
  }

  // --- a warpgroup ----------------------------------------------------------------------------------------------------------------

  struct Who {
    u32 group, lane, warp, g, q;
    u8 *hidden, *staging;
  };

  // Byte of (row, column) in swizzled lines.
  static KS_DEVICE u32 at_line(u32 row, u32 column) { return column / 64 * S::LINE_BYTES + row * 128 + ((column / 8 ^ row) & 7) * 16 + column % 8 * 2; }

  // The descriptor of what stands `bytes` behind: the address is counted in 16 bytes.
  static KS_DEVICE u64 further(u64 descriptor, u32 bytes) { return descriptor + bytes / 16; }

  KS_DEVICE void begin(const Place& at) const { barrier_wait(&full[at.stage], at.parity); }
  // The products that read this stage are done.
  KS_DEVICE void give_back(const Place& at, const Who& who) const {
    if constexpr (S::CLUSTER == 1) {
      if (who.lane == 0) barrier_arrive(&empty[at.stage]);
    } else {
      if (who.lane < S::CLUSTER) barrier_arrive_at(&empty[at.stage], who.lane);
    }
  }
  // After products of stage `at` were queued, of `before` the time before: only the last ones are still running.
  KS_DEVICE void go_on(Place& at, Place& before, bool first, const Who& who) const {
    wgmma_commit();
    if (!first) {
      wgmma_wait<1>();
      give_back(before, who);
    }
    before = at;
    at.next();
  }
  KS_DEVICE void finish(const Place& before, const Who& who) const {
    wgmma_wait<0>();
    give_back(before, who);
  }

  // The sums of block (i, j), outputs from `o0` on, rounded, to where factor K + 1 reads them.
  template <int K> KS_DEVICE void pass_on(const float (&sums)[Factor<K>::OUTS / 2], const Who& who, int i, int j, int o0) const {
    using F = Factor<K>;
    using Next = Factor<K + 1>;
    static_assert(F::A * F::B * F::D == Next::A * Next::C * Next::D, "one factor's rows are the next one's columns");
    u8* to = who.hidden + S::template hidden_before<K + 1>();
    const auto column = [&](u32 next_i, u32 next_j, u32 next_l) { return (next_i * Next::D + next_j) * Next::TERMS + next_l; };
    KS_UNROLL
    for (int u = 0; u < F::OUTS / 8; ++u) {
      if constexpr (S::template in_units<K>()) {
        // Of four eights of wgmma's columns a thread has one whole unit, number q.
        if (u % 4 != 0) continue;
        constexpr int RUN = F::B / Next::D;
        const u32 place = o0 + (u + who.q) * 8, l = i * RUN + place % RUN;
        if (F::B % F::OUTS != 0 && place >= F::B) continue;
        const u32 c = column(l / Next::C, place / RUN, l % Next::C);
        KS_UNROLL
        for (int h = 0; h < 2; ++h) {
          U4 v;
          KS_UNROLL
          for (int t = 0; t < 4; ++t) v.v[t] = Pair<T>::pack(sums[(u + t) * 4 + h * 2], sums[(u + t) * 4 + h * 2 + 1]);
          store_shared16(to + at_line(who.warp * 16 + h * 8 + who.g, c), v);
        }
      } else {
        KS_UNROLL
        for (int x = 0; x < 2; ++x) {
          const u32 o = o0 + u * 8 + who.q * 2 + x, number = (i * F::B + o) * F::D + j;
          if (F::B % F::OUTS != 0 && o >= F::B) continue;
          const u32 c = column(number / (Next::C * Next::D), number % Next::D, number / Next::D % Next::C);
          const u32 both = Pair<T>::pack(sums[u * 4 + x], sums[u * 4 + 2 + x]);
          store_shared2(to + at_line(who.warp * 16 + who.g, c), static_cast<u16>(both));
          store_shared2(to + at_line(who.warp * 16 + 8 + who.g, c), static_cast<u16>(both >> 16));
        }
      }
    }
  }

  // Everything that was written to shared memory by this warpgroup is seen by the tensor cores and by the copy engine.
  static KS_DEVICE void hand_over(const Who& who) {
    fence_async();
    sync_some(1 + who.group, 128);
  }

  KS_DEVICE void first(const Who& who, Place& at) const {
    using F = Factor<0>;
    KS_UNROLL_BY(1)
    for (int i = 0; i < F::A; i += S::BLOCKS) {
      float sums[S::BLOCKS][F::OUTS / 2];
      Place before;
      KS_UNROLL_BY(1)
      for (int turn = 0; turn < S::TURNS; ++turn) {
        begin(at);
        const u8* stage = ring + at.stage * S::STAGE_BYTES;
        const u64 a = wgmma_descriptor_lines(stage + who.group * S::LINE_BYTES), b = wgmma_descriptor(stage + S::X_BYTES, 128, 256);
        wgmma_fence();
        KS_UNROLL
        for (int step = 0; step < 4; ++step) {
          constexpr int STEPS = 4 / S::BLOCKS;  // of a block i within the line
          Core<0>::run(sums[step / STEPS], further(a, step * 32), further(b, step * S::STEP_BYTES), turn != 0 || step % STEPS != 0);
        }
        go_on(at, before, turn == 0, who);
      }
      finish(before, who);
      KS_UNROLL
      for (int block = 0; block < S::BLOCKS; ++block) pass_on<0>(sums[block], who, i + block, 0, 0);
    }
  }

  // One chunk of weights: `column0` is the first of the chunk's terms in factor K's input.
  template <int K, int N> KS_DEVICE void multiply_chunk(float (&sums)[N][Factor<K>::OUTS / 2], const Who& who, const Place& at, int block0, int chunk) const {
    using F = Factor<K>;
    begin(at);
    const u8* stage = ring + at.stage * S::STAGE_BYTES;
    const u8* from = who.hidden + S::template hidden_before<K>();
    const u64 b = wgmma_descriptor(stage, 128, 256);
    const auto more = [&](int step) { return step != 0 || chunk != 0; };  // than the first product of a sum
    const u32 column0 = block0 * F::TERMS + chunk * (F::DEPTH * 16);
    if constexpr (F::ALIGNED) {
      const u64 a = wgmma_descriptor_lines(from + column0 / 64 * S::LINE_BYTES);
      wgmma_fence();
      KS_UNROLL
      for (int step = 0; step < F::DEPTH; ++step) {
        KS_UNROLL
        for (int j = 0; j < N; ++j)
          Core<K>::run(sums[j], further(a, (j * (F::TERMS / 64) + step / 4) * S::LINE_BYTES + step % 4 * 32), further(b, (step * N + j) * (F::OUTS * 32)), more(step));
      }
    } else {
      wgmma_fence();
      KS_UNROLL
      for (int step = 0; step < F::DEPTH; ++step) {
        KS_UNROLL
        for (int j = 0; j < N; ++j) {
          const u32 column = column0 + j * F::TERMS + step * 16;
          Core<K>::run(sums[j], wgmma_descriptor_lines(from + column / 64 * S::LINE_BYTES + column % 64 * 2), further(b, (step * N + j) * (F::OUTS * 32)), more(step));
        }
      }
    }
  }

  template <int K> KS_DEVICE void middle(const Who& who, Place& at) const {
    using F = Factor<K>;
    KS_UNROLL_BY(1)
    for (int job = 0; job < S::template jobs<K>(); ++job) {
      const int tile = job % F::OUT_TILES, block = job / F::OUT_TILES;
      float sums[1][F::OUTS / 2];
      Place before;
      KS_UNROLL_BY(1)
      for (int chunk = 0; chunk < F::CHUNKS; ++chunk) {
        multiply_chunk<K>(sums, who, at, block, chunk);
        go_on(at, before, chunk == 0, who);
      }
      finish(before, who);
      pass_on<K>(sums[0], who, block / F::D, block % F::D, tile * F::OUTS);
    }
  }

  // Two numbers of the residual in one word, or zeros beyond its end: those of vector n, from number `feature` on.
  KS_DEVICE u32 residual(i64 n, i64 feature, bool valid) const {
    using F = typename S::Last;
    constexpr i64 ROW = static_cast<i64>(F::A) * F::B * F::D;
    const u8* from = static_cast<const u8*>(args.residual) + (n * ROW + feature) * 2;
    // The second of the two is there: rows are whole units of 16 bytes.
    if (!valid || n >= args.n || feature >= ROW) return 0;
    if constexpr (F::A == 1 || F::B * F::D % 2 == 0) return load_global4(from);
    else return load_global2(from) | static_cast<u32>(feature + 1 < ROW ? load_global2(from + 2) : 0) << 16;
  }

  // Bias, activation, residual and rounding of 64 columns of Y. A thread has all lanes of two outputs in a row.
  KS_DEVICE void round_box(u8* to, const float (&sums)[S::Last::D][S::Last::OUTS / 2], const Who& who, i64 row0, int box, int i, int o0) const {
    using F = typename S::Last;
    constexpr int D = F::D, PER_BOX = 64 / D;  // outputs of a box
    KS_UNROLL
    for (int u = 0; u < PER_BOX / 8; ++u) {
      const int s = (box * (PER_BOX / 8) + u) * 4, o = o0 + box * PER_BOX + u * 8 + who.q * 2;
      float bias[2 * D] = {};
      if constexpr (S::BIAS) {
        KS_UNROLL
        for (int e = 0; e < 2 * D; ++e)
          if (F::B % F::OUTS == 0 || o + e / D < F::B) bias[e] = T::constant(args.bias, (static_cast<i64>(i) * F::B + o) * D + e);
      }
      KS_UNROLL
      for (int h = 0; h < 2; ++h) {
        const u32 row = who.warp * 16 + h * 8 + who.g, column = (u * 8 + who.q * 2) * D;
        u32 words[D];
        KS_UNROLL
        for (int e = 0; e < D; ++e) {
          float v[2];
          KS_UNROLL
          for (int x = 0; x < 2; ++x) {
            const int number = e * 2 + x;
            const float sum = sums[number % D][s + h * 2 + number / D];
            v[x] = activate_sum<S::ACTIVATION>(S::BIAS ? sum + bias[number] : sum);
          }
          if constexpr (S::JOIN == Join::Residual) {
            const u32 added = residual(row0 + row, (static_cast<i64>(i) * F::B + o) * D + e * 2, F::B % F::OUTS == 0 || o + e * 2 / D < F::B);
            v[0] += Pair<T>::at(added, 0), v[1] += Pair<T>::at(added, 1);
          }
          words[e] = Pair<T>::pack(v[0], v[1]);
        }
        if constexpr (D == 1) store_shared4(to + at_line(row, column), words[0]);
        else if constexpr (D == 2) store_shared8(to + at_line(row, column), {{words[0], words[1]}});
        else {
          KS_UNROLL
          for (int e = 0; e < D; e += 4) store_shared16(to + at_line(row, column + e * 2), {{words[e], words[e + 1], words[e + 2], words[e + 3]}});
        }
      }
    }
  }

  // A job's sums to Y, through two places in shared memory: both of them at once, or in turn where there is one box.
  KS_DEVICE void give(const float (&sums)[S::Last::D][S::Last::OUTS / 2], const Who& who, u32& buffer, i64 row0, int i, int o0) const {
    using F = typename S::Last;
    constexpr int TOGETHER = S::BOXES > 1 ? 2 : 1;
    static_assert(S::BOXES % TOGETHER == 0, "boxes come in twos");
    const bool sender = who.lane == 0 && who.warp == 0;
    KS_UNROLL
    for (int first = 0; first < S::BOXES; first += TOGETHER) {
      u8* to = who.staging + buffer * S::LINE_BYTES;
      if constexpr (TOGETHER == 1) buffer ^= 1;
      if (sender) bulk_wait_read<2 - TOGETHER>();
      sync_some(1 + who.group, 128);
      KS_UNROLL
      for (int k = 0; k < TOGETHER; ++k) round_box(to + k * S::LINE_BYTES, sums, who, row0, first + k, i, o0);
      hand_over(who);
      if (sender) {
        KS_UNROLL
        for (int k = 0; k < TOGETHER; ++k) tensor_store(y_map, to + k * S::LINE_BYTES, (i * F::B + o0) * F::D + (first + k) * 64, static_cast<int>(row0), 0, 0);
        bulk_commit();
      }
    }
  }

  // The warpgroups take turns: while one multiplies, the others give out what they have.
  KS_DEVICE void take_turn(const Who& who, u32& turns) const {
    if constexpr (S::GROUPS > 1) {
      barrier_wait(&turn[who.group], (turns & 1) ^ (who.group == 0));
      ++turns;
    }
  }
  KS_DEVICE void pass_turn(const Who& who) const {
    if constexpr (S::GROUPS > 1) {
      if (who.lane == 0) barrier_arrive(&turn[who.group + 1 == S::GROUPS ? 0 : who.group + 1]);
    }
  }

  KS_DEVICE void last(const Who& who, Place& at, u32& turns, u32& buffer, i64 row0) const {
    using F = typename S::Last;
    KS_UNROLL_BY(1)
    for (int job = 0; job < S::template jobs<LENGTH - 1>(); ++job) {
      const int tile = job % F::OUT_TILES, i = job / F::OUT_TILES;
      float sums[F::D][F::OUTS / 2];
      Place before;
      take_turn(who, turns);
      KS_UNROLL_BY(1)
      for (int chunk = 0; chunk < F::CHUNKS; ++chunk) {
        multiply_chunk<LENGTH - 1>(sums, who, at, i * F::D, chunk);
        go_on(at, before, chunk == 0, who);
      }
      pass_turn(who);
      finish(before, who);
      give(sums, who, buffer, row0, i, tile * F::OUTS);
    }
  }

  template <int K> KS_DEVICE void later(const Who& who, Place& at, u32& turns, u32& buffer, i64 row0) const {
    if constexpr (K + 1 < LENGTH) {
      middle<K>(who, at);
      hand_over(who);
      later<K + 1>(who, at, turns, buffer, row0);
    } else {
      last(who, at, turns, buffer, row0);
    }
  }

  KS_DEVICE void consume() const {
    const u32 group = uniform(thread_index() / 128), lane = thread_index() % 32;
    const Who who{group, lane, thread_index() / 32 % 4, lane / 4, lane % 4, hidden + group * S::HIDDEN_BYTES, staging + group * 2 * S::LINE_BYTES};
    Place at{0, 0};
    u32 turns = 0, buffer = 0;  // of the warpgroup; of the two places in staging
    wait_for_previous();
    for (i64 t = cluster; t < tiles; t += clusters) {
      first(who, at);
      hand_over(who);
      // At its end all warps wait for each other once all products are done: the hidden numbers have been read.
      later<1>(who, at, turns, buffer, row_of(t) + group * 64);
    }
    // Shared memory stays until the copy engine has read it.
    if (who.lane == 0 && who.warp == 0) bulk_wait_read<0>();
  }

  KS_DEVICE void run() const {
    if (thread_index() == 0) {
      for (int s = 0; s < S::STAGES; ++s) {
        barrier_init(&full[s], 1);
        barrier_init(&empty[s], S::CLUSTER * 4 * S::GROUPS);
      }
      for (int group = 0; group < S::GROUPS; ++group) barrier_init(&turn[group], 4);
      barrier_init_fence();
    }
    // Terms beyond c, and what fills the last line, are never written: zeros, once.
    for (u32 at = thread_index() * 16; at < S::GROUPS * S::HIDDEN_BYTES; at += 128 * (S::GROUPS + 1) * 16) store_shared16(hidden + at, {});
    fence_async();
    if constexpr (S::CLUSTER > 1) sync_cluster();
    else sync_block();
    if (uniform(thread_index() / 128) == S::GROUPS) {
      if constexpr (S::CONSUMER_REGISTERS > 0) registers_decrease<S::PRODUCER_REGISTERS>();
      if (thread_index() % 128 == 0) produce();
      sync_warp();
    } else {
      if constexpr (S::CONSUMER_REGISTERS > 0) registers_increase<S::CONSUMER_REGISTERS>();
      consume();
    }
    // No block leaves while others still send to it or tell it that a stage was read.
    if constexpr (S::CLUSTER > 1) sync_cluster();
  }
};

template <class S> KS_DEVICE void chain_wgmma(const Args& args, const TensorMap* x_map, const TensorMap* y_map) { ChainWgmma<S>(args, x_map, y_map).run(); }

}  // namespace ks
