// Two Kronecker-sparse factors in one kernel on Hopper: (a1, b1, c1, 1) first, then (1, b2, c2, d2). The hidden vectors never
// leave the chip.
//
// A cluster of `CLUSTER` blocks takes 64 · `ROW_GROUPS` vectors at a time. Stage 1: each block multiplies its share of the blocks
// i of the first factor, A by descriptor from the boxes of X that the copy engine brings. A hidden number h = i·b1 + o = l·d2 + j
// belongs to the block that owns lane j: 16 bytes (8 lanes of one l) at a time go there through distributed shared memory; the
// order of wgmma's columns is chosen so that a thread has such units whole. Stage 2: with the hidden numbers of all l at hand, a block multiplies its own lanes, gathered into
// A fragments as in lanes_wgmma.cuh. Weights stream through the same ring as X: they are read once per tile of vectors.
//
// The host (plan/gpu/pair_wgmma.rs) prints a `PairTile`, packs the weights, and makes the tensor map of X.
#pragma once
#include "args.cuh"
#include "epilogue.cuh"
#include "types.cuh"

namespace ks {

// The numbers that the host prints, in its order.
template <class T_, Activation ACTIVATION_, bool BIAS_, Join JOIN_, int A1_, int B1_, int C1_, int B2_, int C2_, int D2_, int CLUSTER_,
          int ROW_GROUPS_, int MEMBERS_, int ITEM_UNITS_, int GROUP_OUTS_, int DEPTH_, int STAGES_, bool PREFETCH_, int CONSUMER_REGISTERS_>
struct PairTile {
  using T = T_;
  static constexpr Activation ACTIVATION = ACTIVATION_;
  static constexpr bool BIAS = BIAS_;
  static constexpr Join JOIN = JOIN_;
  static constexpr int A1 = A1_, B1 = B1_, C1 = C1_, B2 = B2_, C2 = C2_, D2 = D2_;
  static constexpr int CLUSTER = CLUSTER_;                  // blocks that share vectors
  static constexpr int ROW_GROUPS = ROW_GROUPS_;            // teams of warpgroups, 64 vectors each
  static constexpr int MEMBERS = MEMBERS_;                  // warpgroups of a team, which share its blocks i and its lanes and outputs
  static constexpr int ITEM_UNITS = ITEM_UNITS_;            // eights of lanes of a warpgroup at a time in stage 2
  static constexpr int GROUP_OUTS = GROUP_OUTS_;            // its outputs at a time
  static constexpr int DEPTH = DEPTH_;                      // steps of 16 inputs of stage 2 per stage of the ring
  static constexpr int STAGES = STAGES_;                    // of the ring
  static constexpr bool PREFETCH = PREFETCH_;               // the next tile's X to the second-level cache
  static constexpr int CONSUMER_REGISTERS = CONSUMER_REGISTERS_, PRODUCER_REGISTERS = 40;

  static constexpr int LINE = 64, UNIT = 8, STEP = 16;
  static constexpr int ROWS = 64 * ROW_GROUPS, GROUPS = ROW_GROUPS * MEMBERS;
  static constexpr int COLUMNS = C1 > LINE ? C1 : LINE;     // of X that are brought together
  static constexpr int BROUGHT_BLOCKS = COLUMNS / C1;       // blocks i among them
  static constexpr int BLOCKS = A1 / CLUSTER;               // blocks i of this block of the cluster
  static constexpr int BRINGS = BLOCKS / BROUGHT_BLOCKS;    // per tile
  static constexpr int TURNS = BRINGS / MEMBERS;            // of a warpgroup in stage 1
  static constexpr int X_BYTES = ROWS * COLUMNS * 2;
  static constexpr int N1 = (B1 + 31) / 32 * 32;             // outputs of stage 1 with padding: whole units for each thread
  static constexpr int W1_BLOCK = N1 * 32, W1_BYTES = COLUMNS / STEP * W1_BLOCK;
  static constexpr int LANES = D2 / CLUSTER, UNITS = LANES / UNIT;
  static constexpr int STEPS = (C2 + STEP - 1) / STEP, CHUNKS = (STEPS + DEPTH - 1) / DEPTH;  // of stage 2
  static constexpr int ITEM_LANES = UNIT * ITEM_UNITS;
  static constexpr int OUT_TILES = (B2 + GROUP_OUTS - 1) / GROUP_OUTS;
  static constexpr int ITEMS = UNITS / ITEM_UNITS * OUT_TILES;
  static constexpr int W2_BLOCK = GROUP_OUTS * 32, W2_BYTES = DEPTH * ITEM_LANES * W2_BLOCK;
  static constexpr int STAGE_BYTES = X_BYTES + W1_BYTES > W2_BYTES ? X_BYTES + W1_BYTES : (W2_BYTES + 1023) / 1024 * 1024;
  static constexpr int USES = BRINGS + ITEMS * CHUNKS;      // of stages of the ring per tile
  static constexpr int PACKED_BYTES = BRINGS * W1_BYTES + ITEMS * CHUNKS * W2_BYTES;  // of this block of the cluster
  static constexpr int HIDDEN_BYTES = 64 * CHUNKS * DEPTH * STEP * LANES * 2;  // of a team
  static constexpr int SENT_BYTES = 64 * C2 * LANES * 2;    // what arrives of it
  static_assert(A1 * B1 == C2 * D2, "the first factor's rows are the second one's columns");
  static_assert(BRINGS % MEMBERS == 0, "the members of a team have equal shares");
  static_assert(B1 % 8 == 0 && D2 % (8 * CLUSTER) == 0 && A1 % CLUSTER == 0, "units of eight hidden numbers have one owner");
};

template <class S> struct PairMemory {
  u8 *hidden, *ring;
  u64 *full, *empty, *hidden_full, *hidden_empty;
  KS_DEVICE PairMemory(u8* shared) : hidden(shared), ring(shared + S::ROW_GROUPS * S::HIDDEN_BYTES) {
    full = reinterpret_cast<u64*>(ring + S::STAGES * S::STAGE_BYTES);
    empty = full + S::STAGES, hidden_full = empty + S::STAGES, hidden_empty = hidden_full + S::ROW_GROUPS;
  }
};

// Byte of the hidden numbers (row, l, eight of the lanes): units of 16 bytes, eight rows together, so that a warp sends runs of 128
// bytes; the rows of an eight change places with l, so that threads which read together hit different banks.
template <class S> KS_DEVICE u32 hidden_at(u32 row, u32 l, u32 eight) { return ((l * S::UNITS + eight) * 64 + (row ^ (l & 3) << 1)) * 16; }

// One thread: X and the weights of both stages, tile after tile, in the order in which the warpgroups take them.
template <class S> KS_DEVICE void pair_produce(const Args& args, const TensorMap* map, const PairMemory<S>& m, u32 rank, i64 tiles) {
  const i64 cluster = block_index() / S::CLUSTER, clusters = grid_size() / S::CLUSTER;
  const u8* w = static_cast<const u8*>(args.w) + static_cast<i64>(rank) * S::PACKED_BYTES;
  int stage = 0;
  u32 parity = 1;
  wait_for_previous();
  for (i64 t = cluster; t < tiles; t += clusters) {
    KS_UNROLL_BY(1)
    for (int use = 0; use < S::USES; ++use) {
      barrier_wait(&m.empty[stage], parity);
      u64* full = &m.full[stage];
      u8* to = m.ring + stage * S::STAGE_BYTES;
      if (use < S::BRINGS) {
        barrier_expect(full, S::X_BYTES + S::W1_BYTES);
        KS_UNROLL
        for (int k = 0; k < S::COLUMNS / S::LINE; ++k)
          tensor_load(to + k * (S::ROWS * 128), map, full, (static_cast<int>(rank) * S::BRINGS + use) * S::COLUMNS + k * S::LINE, static_cast<int>(t * S::ROWS), 0, 0);
        bulk_load(to + S::X_BYTES, w + use * S::W1_BYTES, S::W1_BYTES, full);
      } else {
        barrier_expect(full, S::W2_BYTES);
        bulk_load(to, w + S::BRINGS * S::W1_BYTES + (use - S::BRINGS) * S::W2_BYTES, S::W2_BYTES, full);
        // The ring is short: while stage 2 needs nothing from device memory, the next tile's X comes to the second-level cache.
        if constexpr (S::PREFETCH) {
          if (t + clusters < tiles) {
            constexpr int BOXES = S::BRINGS * (S::COLUMNS / S::LINE), LATER = S::ITEMS * S::CHUNKS;
            const int at = use - S::BRINGS;
            for (int k = at * BOXES / LATER; k < (at + 1) * BOXES / LATER; ++k)
              tensor_prefetch_box(map, (static_cast<int>(rank) * BOXES + k) * S::LINE, static_cast<int>((t + clusters) * S::ROWS), 0, 0);
          }
        }
      }
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
  }
}

// Stage 1 of what was brought to a stage of the ring: queued, not waited for. Every block i by itself.
template <class S, int N> KS_DEVICE void pair_first(float (&sums)[N][S::N1 / 2], const u8* stage, u32 team) {
  using Core = WgmmaShared<typename Multiply<typename S::T>::Type, S::N1>;
  wgmma_fence();
  KS_UNROLL
  for (int block = 0; block < N; ++block) {
    KS_UNROLL
    for (int step = 0; step < S::C1 / S::STEP; ++step) {
      const int at = block * (S::C1 / S::STEP) + step;  // 16 columns of X, four times to a line
      Core::run(sums[block], wgmma_descriptor_lines(stage + (at / 4 * S::ROWS + team * 64) * 128 + at % 4 * 32), wgmma_descriptor(stage + S::X_BYTES + at * S::W1_BLOCK, 128, 256), step != 0);
    }
  }
  wgmma_commit();
}

// The hidden numbers of blocks from `i` on to their owners. The order of outputs within wgmma's columns is free: a thread has
// whole units of eight, number q, q + 4, ….
template <class S, int N> KS_DEVICE void pair_send(const PairMemory<S>& m, const float (&sums)[N][S::N1 / 2], int i, u32 team, u32 warp, u32 g, u32 q) {
  using T = typename S::T;
  KS_UNROLL
  for (int block = 0; block < N; ++block) {
    KS_UNROLL
    for (int u = 0; u < S::N1 / 32; ++u) {
      const u32 unit = u * 4 + q;
      if ((u + 1) * 32 <= S::B1 || unit * 8 < S::B1) {
        const u32 number = (i + block) * S::B1 + unit * 8;
        const u32 l = number / S::D2, j = number % S::D2;
        KS_UNROLL
        for (int h = 0; h < 2; ++h) {
          const u32 row = warp * 16 + h * 8 + g;
          U4 v;
          KS_UNROLL
          for (int t = 0; t < 4; ++t) v.v[t] = Pair<T>::pack(sums[block][(u * 4 + t) * 4 + h * 2], sums[block][(u * 4 + t) * 4 + h * 2 + 1]);
          store_async16_at(m.hidden + team * S::HIDDEN_BYTES + hidden_at<S>(row, l, j % S::LANES / S::UNIT), v, &m.hidden_full[team], j / S::LANES);
        }
      }
    }
  }
}

// A fragments of eight lanes, of one step of stage 2.
template <class S> KS_DEVICE void pair_gather(u32 (&a)[8][4], const u8* hidden, int step, int unit, u32 warp, u32 g, u32 q) {
  KS_UNROLL
  for (int h = 0; h < 2; ++h) {
    const u32 row = warp * 16 + h * 8 + g;
    U4 v[4];
    KS_UNROLL
    for (int r = 0; r < 4; ++r) v[r] = load_shared16(hidden + hidden_at<S>(row, step * S::STEP + q + 4 * r, unit));
    KS_UNROLL
    for (int p = 0; p < 4; ++p) {
      a[2 * p][h] = permute_bytes(v[0].v[p], v[1].v[p], 0x5410), a[2 * p + 1][h] = permute_bytes(v[0].v[p], v[1].v[p], 0x7632);
      a[2 * p][2 + h] = permute_bytes(v[2].v[p], v[3].v[p], 0x5410), a[2 * p + 1][2 + h] = permute_bytes(v[2].v[p], v[3].v[p], 0x7632);
    }
  }
}

// The lanes of an item of one output after the other: bias, activation, join, runs of 16 or 32 bytes (half of that for a gate).
template <class S>
KS_DEVICE void pair_store(const Args& args, float (&sums)[S::ITEM_LANES][S::GROUP_OUTS / 2], i64 n0, int out0, int j, u32 warp, u32 g, u32 q) {
  using T = typename S::T;
  KS_UNROLL
  for (int h = 0; h < 2; ++h) {
    const i64 n = n0 + warp * 16 + h * 8 + g;
    const i64 row = n * (static_cast<i64>(S::B2) * S::D2 * 2 / outputs_of(S::JOIN));
    u8* y = static_cast<u8*>(args.y) + row;
    KS_UNROLL
    for (int s = 0; s < S::GROUP_OUTS / 4; ++s) {
      const int o = out0 + s / 2 * 8 + q * 2 + s % 2;
      const bool valid = n < args.n && o < S::B2;
      U4 units[S::ITEM_UNITS];
      KS_UNROLL
      for (int unit = 0; unit < S::ITEM_UNITS; ++unit) {
        U4 residual = {};
        if constexpr (S::JOIN == Join::Residual) {
          if (valid) residual = load_global16(static_cast<const u8*>(args.residual) + row + (o * S::D2 + j + unit * 8) * 2);
        }
        float v[8];
        KS_UNROLL
        for (int p = 0; p < 8; ++p) {
          v[p] = sums[unit * 8 + p][s / 2 * 4 + h * 2 + s % 2];
          if constexpr (S::BIAS) {
            if (o < S::B2) v[p] += T::constant(args.bias, static_cast<i64>(o) * S::D2 + j + unit * 8 + p);
          }
          if (S::JOIN != Join::Gate || p % 2 == 0) v[p] = activate<S::ACTIVATION>(v[p]);
          if constexpr (S::JOIN == Join::Residual) v[p] += Pack<T>::at(residual, p);
        }
        if constexpr (S::JOIN == Join::Gate) {
          KS_UNROLL
          for (int p = 0; p < 4; ++p) v[p] = v[2 * p] * v[2 * p + 1];
        }
        units[unit] = Pack<T>::unit(v);
      }
      if constexpr (S::JOIN == Join::Gate) {
        // Half of each unit is left.
        u8* to = y + o * S::D2 + j;
        if constexpr (S::ITEM_UNITS == 1) {
          if (valid) store_global8(to, {{units[0].v[0], units[0].v[1]}});
        } else {
          if (valid) store_global16(to, {{units[0].v[0], units[0].v[1], units[1].v[0], units[1].v[1]}});
        }
      } else if constexpr (S::ITEM_UNITS == 1) {
        if (valid) store_global16(y + (o * S::D2 + j) * 2, units[0]);
      } else {
        // Two threads share 32 bytes: the even one has the first halves of both their outputs, the odd one the second halves.
        const bool odd = q & 1;
        U4 got;
        KS_UNROLL
        for (int p = 0; p < 4; ++p) got.v[p] = shuffle_xor(odd ? units[0].v[p] : units[1].v[p], 1);
        const U4 first = odd ? got : units[0], second = odd ? units[1] : got;
        const int low = odd ? o - 2 : o, at = j + (odd ? 8 : 0);
        if (n < args.n && low < S::B2) store_global16(y + (low * S::D2 + at) * 2, first);
        if (n < args.n && low + 2 < S::B2) store_global16(y + ((low + 2) * S::D2 + at) * 2, second);
      }
    }
  }
}

// A warpgroup.
template <class S> KS_DEVICE void pair_consume(const Args& args, const PairMemory<S>& m, u32 rank, i64 tiles) {
  using T = typename S::T;
  using Second = Wgmma<typename Multiply<T>::Type, S::GROUP_OUTS>;
  const u32 group = uniform(thread_index() / 128), lane = thread_index() % 32, warp = thread_index() / 32 % 4, g = lane / 4, q = lane % 4;
  const u32 team = group / S::MEMBERS, member = group % S::MEMBERS;
  const i64 cluster = block_index() / S::CLUSTER, clusters = grid_size() / S::CLUSTER;
  const u8* hidden = m.hidden + team * S::HIDDEN_BYTES;
  wait_for_previous();
  u32 used = 0;  // stages of the ring in the tiles before
  u32 turn = 0;
  for (i64 t = cluster; t < tiles; t += clusters, used += S::USES, turn ^= 1) {
    // Stage 1: while one lot of sums is sent, the next one is multiplied.
    float sums[2][S::BROUGHT_BLOCKS][S::N1 / 2];
    const auto stage_of = [&](u32 k) { return (used + k * S::MEMBERS + member) % S::STAGES; };
    const auto begin = [&](u32 k, auto& lot) {
      barrier_wait(&m.full[stage_of(k)], (used + k * S::MEMBERS + member) / S::STAGES & 1);
      pair_first<S>(lot, m.ring + stage_of(k) * S::STAGE_BYTES, team);
    };
    const auto finish = [&](u32 k, auto& lot) {
      if (lane == 0) barrier_arrive(&m.empty[stage_of(k)]);
      // The hidden numbers of the tile before have been read, by every block of the cluster.
      if (k == 0) barrier_wait(&m.hidden_empty[team], turn ^ 1);
      pair_send<S>(m, lot, rank * S::BLOCKS + (k * S::MEMBERS + member) * S::BROUGHT_BLOCKS, team, warp, g, q);
    };
    begin(0, sums[0]);
    KS_UNROLL
    for (u32 k = 0; k + 2 < S::TURNS; k += 2) {
      begin(k + 1, sums[1]);
      wgmma_wait<1>();
      finish(k, sums[0]);
      begin(k + 2, sums[0]);
      wgmma_wait<1>();
      finish(k + 1, sums[1]);
    }
    if constexpr (S::TURNS % 2 == 0) {
      begin(S::TURNS - 1, sums[1]);
      wgmma_wait<1>();
      finish(S::TURNS - 2, sums[0]);
    }
    wgmma_wait<0>();
    finish(S::TURNS - 1, sums[(S::TURNS - 1) % 2]);
    // Stage 2.
    barrier_wait(&m.hidden_full[team], turn);
    // Announced before any block is told that it may send: bytes that nobody expects must not come.
    if (member == 0 && thread_index() % 128 == 0 && t + clusters < tiles) barrier_expect(&m.hidden_full[team], S::SENT_BYTES);
    KS_UNROLL_BY(1)
    for (u32 round = 0; round < S::ITEMS; round += S::MEMBERS) {
      // In the last round there may be fewer items than members.
      const u32 item = round + member, side_by_side = S::ITEMS - round < S::MEMBERS ? S::ITEMS - round : S::MEMBERS;
      if (S::ITEMS % S::MEMBERS != 0 && item >= S::ITEMS) break;
      const u32 first = used + S::BRINGS + round * S::CHUNKS + member;
      const int unit0 = item / S::OUT_TILES * S::ITEM_UNITS, out0 = item % S::OUT_TILES * S::GROUP_OUTS;
      float results[S::ITEM_LANES][S::GROUP_OUTS / 2];
      KS_UNROLL
      for (int p = 0; p < S::ITEM_LANES; ++p) {
        KS_UNROLL
        for (int s = 0; s < S::GROUP_OUTS / 2; ++s) results[p][s] = 0.f;
      }
      KS_UNROLL_BY(1)
      for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
        const u32 use = first + chunk * side_by_side, stage = use % S::STAGES;
        barrier_wait(&m.full[stage], use / S::STAGES & 1);
        const u8* w = m.ring + stage * S::STAGE_BYTES;
        KS_UNROLL
        for (int step = 0; step < S::DEPTH; ++step) {
          KS_UNROLL
          for (int unit = 0; unit < S::ITEM_UNITS; ++unit) {
            u32 a[8][4];
            pair_gather<S>(a, hidden, chunk * S::DEPTH + step, unit0 + unit, warp, g, q);
            wgmma_fence();
            KS_UNROLL
            for (int p = 0; p < 8; ++p) Second::run(results[unit * 8 + p], a[p], wgmma_descriptor(w + ((step * S::ITEM_UNITS + unit) * 8 + p) * S::W2_BLOCK, 128, 256));
            wgmma_commit();
            wgmma_wait<1>();
          }
        }
        wgmma_wait<0>();
        if (lane == 0) barrier_arrive(&m.empty[stage]);
      }
      if (item + S::MEMBERS >= S::ITEMS) {
        sync_warp();
        if (lane < S::CLUSTER) barrier_arrive_at(&m.hidden_empty[team], lane);
      }
      pair_store<S>(args, results, t * S::ROWS + team * 64, out0, static_cast<int>(rank) * S::LANES + unit0 * 8, warp, g, q);
    }
    if (member >= S::ITEMS) {
      sync_warp();
      if (lane < S::CLUSTER) barrier_arrive_at(&m.hidden_empty[team], lane);
    }
  }
}

template <class S> KS_DEVICE void pair_wgmma(const Args& args, const TensorMap* x_map) {
  const PairMemory<S> m(shared_memory());
  const u32 rank = S::CLUSTER > 1 ? cluster_rank() : 0;
  const i64 tiles = (args.n + S::ROWS - 1) / S::ROWS;
  if (thread_index() == 0) {
    for (int s = 0; s < S::STAGES; ++s) {
      barrier_init(&m.full[s], 1);
      barrier_init(&m.empty[s], 4 * S::ROW_GROUPS);
    }
    for (int team = 0; team < S::ROW_GROUPS; ++team) {
      barrier_init(&m.hidden_full[team], 1);
      barrier_init(&m.hidden_empty[team], S::CLUSTER * S::MEMBERS * 4);
    }
    barrier_init_fence();
    for (int team = 0; team < S::ROW_GROUPS; ++team) barrier_expect(&m.hidden_full[team], S::SENT_BYTES);
  }
  // Inputs l beyond c2 are never sent: zeros, once.
  if constexpr (S::C2 != S::CHUNKS * S::DEPTH * S::STEP) {
    for (u32 at = thread_index() * 16; at < S::ROW_GROUPS * S::HIDDEN_BYTES; at += 128 * (S::GROUPS + 1) * 16) store_shared16(m.hidden + at, {});
  }
  if constexpr (S::CLUSTER > 1) sync_cluster();
  else sync_block();
  if (uniform(thread_index() / 128) == S::GROUPS) {
    registers_decrease<S::PRODUCER_REGISTERS>();
    if (thread_index() % 128 == 0) pair_produce<S>(args, x_map, m, rank, tiles);
    sync_warp();
  } else {
    registers_increase<S::CONSUMER_REGISTERS>();
    pair_consume<S>(args, m, rank, tiles);
  }
  // No block leaves while others still write to it or tell it that its hidden numbers were read.
  if constexpr (S::CLUSTER > 1) sync_cluster();
}

}  // namespace ks
