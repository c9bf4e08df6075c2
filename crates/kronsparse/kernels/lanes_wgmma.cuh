// One Kronecker-sparse factor on Hopper: lanes of consecutive numbers, gathered into the A fragments of wgmma.
//
// A block owns `ROWS` vectors, `LANES` consecutive lanes j and `OUTS` outputs o of one super-block i, and walks over l. The copy
// engine brings boxes of X as they lie in memory and the packed weights into a ring of stages; a thread of a consumer
// warpgroup reads 16 bytes, which hold several lanes (batch-first) or several vectors (batch-last) of the same l, and byte
// permutes turn them into the fragments of as many products: nothing is ever transposed in memory. The order of l within a
// step and of the outputs within a tile is free, and chosen so that shared memory has no bank conflicts where possible and
// a thread ends with 16 consecutive bytes of Y. Blocks are persistent; a producer warp runs ahead by `STAGES`.
// In a cluster, `SHARE_X` blocks (other outputs) share one copy of X, and `SHARE_W` blocks (other vectors) one of the weights.
//
// The host (plan/gpu/lanes_wgmma.rs) prints a `WgmmaTile` (wgmma_tile.cuh), packs the weights, and makes the tensor maps.
#pragma once
#pragma once
#include "wgmma_finish.cuh"
#include "wgmma_gather.cuh"
#include "wgmma_tile.cuh"

namespace ks {

// A box of X to this block, or to all that share it.
template <class S> KS_DEVICE void bring(u8* to, const TensorMap* map, u64* full, int x, int y, int z, int w, u16 mask) {
  if constexpr (S::SHARE_X > 1) tensor_load_multicast(to, map, full, x, y, z, w, mask);
  else tensor_load(to, map, full, x, y, z, w);
}

// One thread: brings chunk after chunk of tile after tile.
template <class S> KS_DEVICE void produce(const Args& args, const TensorMap* map, const Ring<S>& ring, u32 rank, i64 tiles) {
  constexpr int SX = S::SHARE_X, SW = S::SHARE_W;
  const u32 x_part = rank % SX, w_part = rank / SX;
  const u16 x_mask = static_cast<u16>(((1u << SX) - 1) << (w_part * SX));
  u16 w_mask = 0;
  for (int s = 0; s < SW; ++s) w_mask |= static_cast<u16>(1u << (s * SX + x_part));
  const i64 cluster = block_index() / S::CLUSTER, clusters = grid_size() / S::CLUSTER;
  const auto bring_weights = [&](const Place& p, int chunk, int stage) {
    barrier_expect(&ring.full[stage], S::STAGE_BYTES);
    const i64 w_tile = (static_cast<i64>(p.super_block) * S::LANE_TILES + p.lane_tile) * (S::OUT_TEAMS * SX) + p.out_tile;
    constexpr int PART = S::W_BYTES / SW;
    const u8* from = static_cast<const u8*>(args.w) + (w_tile * S::CHUNKS + chunk) * S::W_BYTES + w_part * PART;
    if constexpr (SW > 1) bulk_load_multicast(ring.w(stage) + w_part * PART, from, PART, &ring.full[stage], w_mask);
    else bulk_load(ring.w(stage), from, PART, &ring.full[stage]);
  };
  // Weights need not wait for the kernels before: those of the first round come at once.
  constexpr int AHEAD = S::CHUNKS < S::STAGES ? S::CHUNKS : S::STAGES;
  if (cluster < tiles)
    for (int chunk = 0; chunk < AHEAD; ++chunk) bring_weights(place<S>(cluster, rank), chunk, chunk);
  wait_for_previous();
  int stage = 0;
  u32 parity = 1;  // nothing to wait for in the first round
  for (i64 t = cluster; t < tiles; t += clusters) {
    const Place p = place<S>(t, rank);
    const int row0 = static_cast<int>(p.row_tile * S::ROWS);
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
      barrier_wait(&ring.empty[stage], parity);
      u64* full = &ring.full[stage];
      if (t != cluster || chunk >= AHEAD) bring_weights(p, chunk, stage);
      // The blocks that share X take turns: one part of the rows each, or every third of four and sixth of eight.
      constexpr int PART_ROWS = S::ROWS / S::X_PARTS;
      if constexpr (S::LAST) {
        constexpr int BOX = 128 / S::SIZE;
        for (int box = x_part; box < S::ROWS / BOX; box += SX)
          bring<S>(ring.x(stage) + box * (S::DEPTH * 128), map, full, row0 + box * BOX, p.lane_tile, chunk * S::DEPTH, p.super_block, x_mask);
      } else {
        for (int part = x_part; part < S::X_PARTS; part += SX) {
          const int first = part * PART_ROWS;
          if constexpr (S::GEOMETRY == Geometry::Lines) {
            constexpr int LINE = 128 / S::SIZE, COUNT = S::DEPTH * S::D / LINE;
            for (int k = 0; k < COUNT; ++k)
              bring<S>(ring.x(stage) + k * (S::ROWS * 128) + first * 128, map, full, (chunk * COUNT + k) * LINE, p.super_block, row0 + first, 0, x_mask);
          } else if constexpr (S::GEOMETRY == Geometry::Runs) {
            constexpr int RUN = S::DEPTH * S::D;
            bring<S>(ring.x(stage) + first * (RUN * S::SIZE), map, full, chunk * RUN, p.super_block, row0 + first, 0, x_mask);
          } else {
            bring<S>(ring.x(stage) + first * (S::DEPTH * S::LANES * S::SIZE), map, full, p.lane_tile * S::LANES, chunk * S::DEPTH, p.super_block, row0 + first, x_mask);
          }
        }
      }
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
  }
}

// One warp is done with a stage: tells every block whose copies arrive there.
template <class S> KS_DEVICE void release(const Ring<S>& ring, int stage, u32 rank) {
  const u32 lane = thread_index() % 32;
  if constexpr (S::CLUSTER == 1) {
    if (lane == 0) barrier_arrive(&ring.empty[stage]);
  } else {
    // The SHARE_X blocks of this block's vectors, then the SHARE_W - 1 others of its outputs.
    const u32 row = rank / S::SHARE_X, column = rank % S::SHARE_X;
    if (lane < S::SHARE_X) {
      barrier_arrive_at(&ring.empty[stage], row * S::SHARE_X + lane);
    } else if (lane < S::SHARE_X + S::SHARE_W) {
      const u32 other = lane - S::SHARE_X;
      if (other != row) barrier_arrive_at(&ring.empty[stage], other * S::SHARE_X + column);
    }
  }
}

// x = high + low, of which the tensor cores read the first 11 bits each: together 22, cut off and not rounded, which is enough
// and costs least. What is not finite goes into `low` alone: ∞ · (low part of a weight) may be ∞ · 0.
KS_DEVICE u32 split(u32 x, u32& low) {
  const bool finite = float_of(x & 0x7FFFFFFFu) < float_of(0x7F800000u);
  const u32 high = finite ? x & 0xFFFFE000u : 0;
  low = bits(float_of(x) - float_of(high));
  return high;
}

template <int P, int N> KS_DEVICE void clear(float (&sums)[P][N]) {
  KS_UNROLL
  for (int p = 0; p < P; ++p) {
    KS_UNROLL
    for (int s = 0; s < N; ++s) sums[p][s] = 0.f;
  }
}

// A warpgroup: multiplies what the producer brings.
template <class S> KS_DEVICE void consume(const Args& args, const TensorMap* y_map, const Ring<S>& ring, u32 rank, i64 tiles) {
  using T = typename S::T;
  using Core = Wgmma<typename Multiply<T>::Type, S::OUTS_PER_GROUP>;
  constexpr int P = S::PRODUCTS, L = S::LANES_PER_GROUP;
  const u32 group = thread_index() / 128, lane = thread_index() % 32, warp = thread_index() / 32 % 4;
  const u32 g = lane / 4, q = lane % 4;
  const u32 group_lane = group % S::LANE_GROUPS, group_row = group / S::LANE_GROUPS % S::ROW_GROUPS, group_out = group / (S::LANE_GROUPS * S::ROW_GROUPS);
  const i64 cluster = block_index() / S::CLUSTER, clusters = grid_size() / S::CLUSTER;
  int stage = 0;
  u32 parity = 0;
  u32 buffers = 0;  // which staging buffer is next
  int held = -1;  // stage that the last committed group still reads
  wait_for_previous();
  for (i64 t = cluster; t < tiles; t += clusters) {
    float sums[P][S::SUMS];
    clear(sums);
    // Tensor cores cut the sum's last bits off at every step; long f32 sums are therefore added up piece by piece outside.
    float total[S::PIECE ? P : 1][S::SUMS];
    if constexpr (S::PIECE != 0) clear(total);
    // Unrolled twice, so that fragments are gathered into one set of registers while wgmma reads the other.
    KS_UNROLL_BY(2)
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
      barrier_wait(&ring.full[stage], parity);
      KS_UNROLL
      for (int step = 0; step < S::STEPS; ++step) {
        u32 a[P][4];
        Gather<S>::load(a, ring.x(stage), step, group_row, group_lane, warp, g, q);
        u32 low[S::SPLIT ? P : 1][4];
        if constexpr (!S::HALF) {
          KS_UNROLL
          for (int p = 0; p < P; ++p) {
            KS_UNROLL
            for (int r = 0; r < 4; ++r) {
              if constexpr (S::SPLIT) a[p][r] = split(a[p][r], low[p][r]);
              else a[p][r] = round_tf32(float_of(a[p][r]));
            }
          }
        }
        wgmma_fence();
        KS_UNROLL
        for (int p = 0; p < P; ++p) {
          // [lane][step][out group][part]
          const u32 block = ((group_lane * L + (S::LAST ? 0 : p % L)) * S::STEPS + step) * S::OUT_GROUPS + group_out;
          const u8* w = ring.w(stage) + block * (S::PARTS * S::W_BLOCK);
          if constexpr (S::SPLIT) {
            Core::run(sums[p], low[p], wgmma_descriptor(w, 128, 256));
            Core::run(sums[p], a[p], wgmma_descriptor(w + S::W_BLOCK, 128, 256));
          }
          Core::run(sums[p], a[p], wgmma_descriptor(w, 128, 256));
        }
        wgmma_commit();
        // The group before this one is done: what it read may be overwritten.
        wgmma_wait<1>();
        if (step == 0 && held >= 0) release<S>(ring, held, rank);
      }
      held = stage;
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
      if constexpr (S::PIECE != 0) {
        if ((chunk + 1) % S::PIECE == 0 || chunk + 1 == S::CHUNKS) {
          wgmma_wait<0>();
          KS_UNROLL
          for (int p = 0; p < P; ++p) {
            KS_UNROLL
            for (int s = 0; s < S::SUMS; ++s) total[p][s] += sums[p][s];
          }
          clear(sums);
        }
      }
    }
    wgmma_wait<0>();
    release<S>(ring, held, rank);
    held = -1;
    if constexpr (S::PIECE != 0) Finish<S>::store(args, y_map, ring, place<S>(t, rank), total, group_row, group_lane, group_out, warp, g, q, buffers);
    else Finish<S>::store(args, y_map, ring, place<S>(t, rank), sums, group_row, group_lane, group_out, warp, g, q, buffers);
  }
  bulk_wait_read<0>();
}

template <class Tile> KS_DEVICE void lanes_wgmma(const Args& args, const TensorMap* x_map, const TensorMap* y_map) {
  using S = Shape<Tile>;
  const Ring<S> ring(shared_memory());
  const u32 rank = S::CLUSTER > 1 ? cluster_rank() : 0;
  const i64 row_tiles = (args.n + S::ROWS - 1) / S::ROWS;
  const i64 tiles = (row_tiles + S::SHARE_W - 1) / S::SHARE_W * S::TEAMS;
  if (thread_index() == 0) {
    for (int s = 0; s < S::STAGES; ++s) {
      barrier_init(&ring.full[s], 1);
      barrier_init(&ring.empty[s], (S::SHARE_X + S::SHARE_W - 1) * S::GROUPS * 4);
    }
    barrier_init_fence();
  }
  if constexpr (S::CLUSTER > 1) sync_cluster();
  else sync_block();
  if (thread_index() / 128 == S::GROUPS) {
    registers_decrease<S::PRODUCER_REGISTERS>();
    if (thread_index() % 128 == 0) produce<S>(args, x_map, ring, rank, tiles);
    sync_warp();
  } else {
    registers_increase<S::CONSUMER_REGISTERS>();
    consume<S>(args, y_map, ring, rank, tiles);
  }
  // No block leaves while others still write to it or tell it that a stage is free.
  if constexpr (S::CLUSTER > 1) sync_cluster();
}

}  // namespace ks
