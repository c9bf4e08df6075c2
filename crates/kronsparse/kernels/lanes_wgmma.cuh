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
// The host (plan/gpu/lanes_wgmma.rs) prints a `Tile` with the numbers below, packs the weights, and makes the tensor maps.
#pragma once
#include "args.cuh"
#include "epilogue.cuh"
#include "types.cuh"

namespace ks {

// How the box of X lies in shared memory.
enum class Geometry {
  Lines,   // all d lanes: 128-byte lines of consecutive (l, j), swizzled; [line][row][128]
  Runs,    // all d lanes where d is no power of two: [row][l][j], plain
  Slices,  // some of the lanes: [row][l][LANES], plain
  Batch,   // batch-last: [64 or 32 vectors][l][128 bytes of vectors], swizzled
};

// The numbers that the host prints, in its order (plan/gpu/lanes_wgmma.rs explains each).
template <class T_, Geometry GEOMETRY_, Activation ACTIVATION_, bool BIAS_, int A_, int B_, int C_, int D_, int LANES_PER_GROUP_,
          int LANE_GROUPS_, int ROW_GROUPS_, int OUT_GROUPS_, int OUTS_PER_GROUP_, int MTILES_, int DEPTH_, int STAGES_, int SHARE_X_,
          int SHARE_W_, int STAGED_OUTS_, int TOGETHER_, int PIECE_, bool SPREAD_ROWS_, int CONSUMER_REGISTERS_>
struct WgmmaTile {
  using T = T_;
  static constexpr Geometry GEOMETRY = GEOMETRY_;
  static constexpr Activation ACTIVATION = ACTIVATION_;
  static constexpr bool BIAS = BIAS_, SPREAD_ROWS = SPREAD_ROWS_;
  static constexpr int A = A_, B = B_, C = C_, D = D_;
  static constexpr int LANES_PER_GROUP = LANES_PER_GROUP_, LANE_GROUPS = LANE_GROUPS_, ROW_GROUPS = ROW_GROUPS_;
  static constexpr int OUT_GROUPS = OUT_GROUPS_, OUTS_PER_GROUP = OUTS_PER_GROUP_, MTILES = MTILES_;
  static constexpr int DEPTH = DEPTH_, STAGES = STAGES_, SHARE_X = SHARE_X_, SHARE_W = SHARE_W_;
  static constexpr int STAGED_OUTS = STAGED_OUTS_, TOGETHER = TOGETHER_, PIECE = PIECE_;
  static constexpr int CONSUMER_REGISTERS = CONSUMER_REGISTERS_;
};

// Everything that follows from the numbers of a tile.
template <class Tile> struct Shape : Tile {
  using T = typename Tile::T;
  static constexpr int SIZE = Bytes<T>::value;
  static constexpr bool HALF = SIZE == 2;
  static constexpr bool SPLIT = IsSame<T, F32>::value;
  static constexpr int PARTS = SPLIT ? 2 : 1;            // high and low parts of weights
  static constexpr int STEP = HALF ? 16 : 8;             // l's of one wgmma
  static constexpr int SLOTS = HALF ? 4 : 2;             // l's that one thread holds of each step
  static constexpr int UNIT = 16 / SIZE;                 // numbers in 16 bytes
  static constexpr bool LAST = Tile::GEOMETRY == Geometry::Batch;
  static constexpr int MTILES = LAST ? UNIT / 2 : Tile::MTILES;
  static constexpr int LANES = Tile::LANES_PER_GROUP * Tile::LANE_GROUPS;
  static constexpr int GROUPS = Tile::LANE_GROUPS * Tile::ROW_GROUPS * Tile::OUT_GROUPS;  // consumer warpgroups
  static constexpr int ROWS_PER_GROUP = 64 * MTILES;
  static constexpr int ROWS = ROWS_PER_GROUP * Tile::ROW_GROUPS;
  static constexpr int OUTS = Tile::OUTS_PER_GROUP * Tile::OUT_GROUPS;
  static constexpr int PRODUCTS = MTILES * Tile::LANES_PER_GROUP;  // accumulator tiles of a warpgroup
  static constexpr int SUMS = Tile::OUTS_PER_GROUP / 2;            // per thread and product
  static constexpr int STEPS = Tile::DEPTH / STEP;                 // per stage
  static constexpr int X_BYTES = ROWS * Tile::DEPTH * LANES * SIZE;
  static constexpr int W_BLOCK = Tile::OUTS_PER_GROUP * 32;        // one wgmma's B
  static constexpr int W_BYTES = LANES * STEPS * Tile::OUT_GROUPS * PARTS * W_BLOCK;
  static constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
  static constexpr int CHUNKS = (Tile::C + Tile::DEPTH - 1) / Tile::DEPTH;  // stages of a tile
  static constexpr int CLUSTER = Tile::SHARE_X * Tile::SHARE_W;
  static constexpr int X_PARTS = Tile::SHARE_X == 3 ? 4 : Tile::SHARE_X == 6 ? 8 : Tile::SHARE_X;  // boxes of rows of a stage
  static constexpr int LANE_TILES = LAST ? Tile::D : (Tile::D + LANES - 1) / LANES;
  static constexpr int OUT_TILES = (Tile::B + OUTS - 1) / OUTS;
  static constexpr int OUT_TEAMS = (OUT_TILES + Tile::SHARE_X - 1) / Tile::SHARE_X;
  static constexpr i64 TEAMS = static_cast<i64>(Tile::A) * LANE_TILES * OUT_TEAMS;  // clusters side by side for the same vectors
  // Stores: through shared memory by the copy engine, or 16 bytes straight from a thread: TOGETHER outputs of all lanes.
  static constexpr int STAGED_OUTS = Tile::STAGED_OUTS;
  static constexpr int Y_BUFFER = ROWS * STAGED_OUTS * LANES * SIZE;
  static constexpr int Y_BYTES = 2 * Y_BUFFER * Tile::OUT_GROUPS;
  static constexpr int TOGETHER = Tile::TOGETHER;
  static constexpr int THREADS = 128 * (GROUPS + 1);
  static constexpr int PRODUCER_REGISTERS = 40;
  static constexpr int CONSUMER_REGISTERS = Tile::CONSUMER_REGISTERS;
  static_assert(Tile::DEPTH % STEP == 0 && X_BYTES % 1024 == 0 && W_BYTES % 128 == 0 && STAGE_BYTES % 1024 == 0);
};

// Where a thread's numbers lie, relative to its row, and how they become fragments.
template <class S> struct Gather {
  // Order of the eight rows of a core matrix: such that threads which read together hit different banks.
  static KS_DEVICE u32 row_of(u32 g) { return S::SPREAD_ROWS ? (g >> 1) | (g & 1) << 2 : g; }

  // Fragments of step `step` from the stage at `x`: a[product][register]. `group_row`, `group_lane`: of the warpgroup.
  static KS_DEVICE void load(u32 (&a)[S::PRODUCTS][4], const u8* x, int step, u32 group_row, u32 group_lane, u32 warp, u32 g, u32 q) {
    if constexpr (S::LAST) {
      const u8* box = x + (group_row * 4 + warp) * (S::DEPTH * 128);
      U4 v[S::SLOTS];
      KS_UNROLL
      for (int r = 0; r < S::SLOTS; ++r) {
        const u32 l = step * S::STEP + q + 4 * r;
        v[r] = load_shared16(box + l * 128 + ((row_of(g) ^ (l & 7)) << 4));
      }
      KS_UNROLL
      for (int p = 0; p < S::PRODUCTS; ++p) {
        if constexpr (S::HALF) {
          a[p][0] = permute_bytes(v[0].v[p], v[1].v[p], 0x5410);
          a[p][1] = permute_bytes(v[0].v[p], v[1].v[p], 0x7632);
          a[p][2] = permute_bytes(v[2].v[p], v[3].v[p], 0x5410);
          a[p][3] = permute_bytes(v[2].v[p], v[3].v[p], 0x7632);
        } else {
          a[p][0] = v[0].v[2 * p], a[p][1] = v[0].v[2 * p + 1], a[p][2] = v[1].v[2 * p], a[p][3] = v[1].v[2 * p + 1];
        }
      }
    } else {
      KS_UNROLL
      for (int m = 0; m < S::MTILES; ++m) {
        KS_UNROLL
        for (int h = 0; h < 2; ++h) {
          const u32 row = (group_row * S::MTILES + m) * 64 + warp * 16 + h * 8 + row_of(g);
          constexpr int L = S::LANES_PER_GROUP;
          // The thread's numbers of this row, [slot][lane] of the fragments, as 32-bit words.
          constexpr int COUNT = S::SLOTS * L, WORDS = COUNT * S::SIZE / 4;
          u32 w[WORDS];
          if constexpr (S::GEOMETRY == Geometry::Lines && L * S::SIZE < 16 && L < S::D) {
            // Several warpgroups share the lanes of a unit: each reads its own.
            KS_UNROLL
            for (int r = 0; r < S::SLOTS; ++r) {
              const u32 at = l_of_slot(step, q, r) * S::D + group_lane * L;
              const u8* from = line(x, row, at / S::UNIT) + at % S::UNIT * S::SIZE;
              if constexpr (L * S::SIZE == 4) w[r] = load_shared4(from);
              else put(w, 2 * r, load_shared8(from));
            }
          } else if constexpr (S::GEOMETRY == Geometry::Lines && S::D < S::UNIT * S::SLOTS && S::UNIT % S::D == 0) {
            // 16 bytes hold UNIT / D consecutive l's: several slots, or (d = 1, and f32 with d = 2 or less) several steps.
            constexpr int PER_UNIT = S::UNIT / S::D;  // l's
            if constexpr (PER_UNIT >= S::SLOTS) {
              constexpr int STEPS_PER_UNIT = PER_UNIT / S::SLOTS;
              const u32 unit = (step / STEPS_PER_UNIT) * 4 + q, within = step % STEPS_PER_UNIT;
              const u8* at = line(x, row, unit) + within * (WORDS * 4);
              if constexpr (WORDS == 4) put(w, 0, load_shared16(at));
              else put(w, 0, load_shared8(at));
            } else {
              constexpr int UNITS = S::SLOTS / PER_UNIT;
              KS_UNROLL
              for (int r = 0; r < UNITS; ++r) put(w, 4 * r, load_shared16(line(x, row, step * 4 * UNITS + q + 4 * r)));
            }
          } else if constexpr (S::GEOMETRY == Geometry::Lines) {
            // Every l has UNITS units of lanes; a slot is one l.
            constexpr int UNITS = S::D / S::UNIT, MINE = L / S::UNIT;
            KS_UNROLL
            for (int r = 0; r < S::SLOTS; ++r) {
              KS_UNROLL
              for (int v = 0; v < MINE; ++v) {
                const u32 l = step * S::STEP + q + 4 * r;
                put(w, (r * MINE + v) * 4, load_shared16(line(x, row, l * UNITS + group_lane * MINE + v)));
              }
            }
          } else if constexpr (S::GEOMETRY == Geometry::Runs) {
            // SLOTS consecutive l's of all lanes are one run.
            const u8* at = x + row * (S::DEPTH * S::D * S::SIZE) + (step * S::STEP + S::SLOTS * q) * (S::D * S::SIZE);
            if constexpr (WORDS % 4 == 0) {
              KS_UNROLL
              for (int v = 0; v < WORDS / 4; ++v) put(w, 4 * v, load_shared16(at + 16 * v));
            } else {
              KS_UNROLL
              for (int v = 0; v < WORDS / 2; ++v) put(w, 2 * v, load_shared8(at + 8 * v));
            }
          } else {
            constexpr int MINE = L / S::UNIT;
            KS_UNROLL
            for (int r = 0; r < S::SLOTS; ++r) {
              KS_UNROLL
              for (int v = 0; v < MINE; ++v) {
                const u32 l = step * S::STEP + q + 4 * r;
                const u32 run = row * S::DEPTH + l;
                const u32 unit = swizzle(run * (S::LANES * S::SIZE) + (group_lane * MINE + v) * 16);
                put(w, (r * MINE + v) * 4, load_shared16(x + unit));
              }
            }
          }
          KS_UNROLL
          for (int j = 0; j < L; ++j) {
            u32(&f)[4] = a[m * L + j];
            if constexpr (S::HALF) {
              f[h] = pair(w, j, L + j);
              f[2 + h] = pair(w, 2 * L + j, 3 * L + j);
            } else {
              f[h] = w[j], f[2 + h] = w[L + j];
            }
          }
        }
      }
    }
  }

 private:
  // The l that slot `r` of a thread stands for, in the geometry Lines.
  static KS_DEVICE u32 l_of_slot(int step, u32 q, int r) {
    if constexpr (S::D >= S::UNIT) {
      return step * S::STEP + q + 4 * r;
    } else {
      constexpr int PER_UNIT = S::UNIT / S::D;
      if constexpr (PER_UNIT >= S::SLOTS) {
        constexpr int STEPS_PER_UNIT = PER_UNIT / S::SLOTS;
        return ((step / STEPS_PER_UNIT) * 4 + q) * PER_UNIT + step % STEPS_PER_UNIT * S::SLOTS + r;
      } else {
        constexpr int UNITS = S::SLOTS / PER_UNIT;
        return (step * 4 * UNITS + q + 4 * (r / PER_UNIT)) * PER_UNIT + r % PER_UNIT;
      }
    }
  }
  // Address of 16-byte unit `unit` of a row in the geometry Lines.
  static KS_DEVICE const u8* line(const u8* x, u32 row, u32 unit) {
    return x + (unit >> 3) * (S::ROWS * 128) + row * 128 + (((unit ^ row) & 7) << 4);
  }
  // Geometry Slices with 64 or 128-byte runs: the copy engine's swizzle of that span. Shorter runs are not swizzled.
  static KS_DEVICE u32 swizzle(u32 at) {
    if constexpr (S::LANES * S::SIZE == 64) return at ^ ((at >> 3) & 0x30);
    else if constexpr (S::LANES * S::SIZE == 128) return at ^ ((at >> 3) & 0x70);
    else return at;
  }
  template <int N> static KS_DEVICE void put(u32 (&w)[N], int at, U4 v) { w[at] = v.v[0], w[at + 1] = v.v[1], w[at + 2] = v.v[2], w[at + 3] = v.v[3]; }
  template <int N> static KS_DEVICE void put(u32 (&w)[N], int at, U2 v) { w[at] = v.v[0], w[at + 1] = v.v[1]; }
  // The 16-bit numbers `low` and `high` of the words as one word.
  template <int N> static KS_DEVICE u32 pair(const u32 (&w)[N], int low, int high) {
    const u32 selector = (low & 1 ? 0x32u : 0x10u) | (high & 1 ? 0x7600u : 0x5400u);
    return permute_bytes(w[low / 2], w[high / 2], selector);
  }
};

// Which output of a warpgroup's tile is column 8·t + 2·q + z of the accumulators: TOGETHER consecutive ones in a thread.
template <class S> KS_DEVICE u32 output_of(u32 m /* 2·t + z */, u32 q) { return (m / S::TOGETHER * 4 + q) * S::TOGETHER + m % S::TOGETHER; }

struct Place { i64 row_tile; int super_block, lane_tile, out_tile; };

// Tile `t` of the cluster: vectors outermost, so that blocks which run together work on the same rows of X and Y.
template <class S> KS_DEVICE Place place(i64 t, u32 rank) {
  Place p;
  p.row_tile = t / S::TEAMS * S::SHARE_W + rank / S::SHARE_X;
  const int team = static_cast<int>(t % S::TEAMS);
  p.out_tile = team % S::OUT_TEAMS * S::SHARE_X + rank % S::SHARE_X;
  p.lane_tile = team / S::OUT_TEAMS % S::LANE_TILES;
  p.super_block = team / (S::OUT_TEAMS * S::LANE_TILES);
  return p;
}

template <class S> struct Ring {
  u8* stages;
  u8* staging;
  u64 *full, *empty;

  KS_DEVICE Ring(u8* shared) : stages(shared), staging(shared + S::STAGES * S::STAGE_BYTES) {
    full = reinterpret_cast<u64*>(staging + S::Y_BYTES), empty = full + S::STAGES;
  }
  KS_DEVICE u8* x(int stage) const { return stages + stage * S::STAGE_BYTES; }
  KS_DEVICE u8* w(int stage) const { return x(stage) + S::X_BYTES; }
};

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
  int stage = 0;
  u32 parity = 1;  // nothing to wait for in the first round
  for (i64 t = cluster; t < tiles; t += clusters) {
    const Place p = place<S>(t, rank);
    const i64 w_tile = (static_cast<i64>(p.super_block) * S::LANE_TILES + p.lane_tile) * (S::OUT_TEAMS * SX) + p.out_tile;
    const u8* w = static_cast<const u8*>(args.w) + w_tile * S::CHUNKS * S::W_BYTES;
    const int row0 = static_cast<int>(p.row_tile * S::ROWS);
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
      barrier_wait(&ring.empty[stage], parity);
      u64* full = &ring.full[stage];
      barrier_expect(full, S::STAGE_BYTES);
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
      constexpr int PART = S::W_BYTES / SW;
      const u8* from = w + static_cast<i64>(chunk) * S::W_BYTES + w_part * PART;
      if constexpr (SW > 1) bulk_load_multicast(ring.w(stage) + w_part * PART, from, PART, full, w_mask);
      else bulk_load(ring.w(stage), from, S::W_BYTES, full);
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
  }
}

// Bias, activation, rounding; then 16 bytes at a time to Y or to the staging buffer.
template <class S> struct Finish {
  using T = typename S::T;
  static constexpr int L = S::LANES_PER_GROUP;

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
          complete(v, bias);
          store_global16(y + (feature * args.n + n0) * S::SIZE, Pack<T>::unit(v));
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
              complete(v, 0.f);
              // B is a multiple of TOGETHER: a run is inside or outside.
              if (n < args.n && o < S::B) store_global16(static_cast<u8*>(args.y) + (n * (S::A * S::B * S::D) + feature + u * S::UNIT) * S::SIZE, Pack<T>::unit(v));
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
              complete(v, 0.f);
              u8* to = buffer + ((row * S::STAGED_OUTS + o) * S::LANES + lane) * S::SIZE;
              const U4 unit = Pack<T>::unit(v);
              if constexpr (L * S::SIZE >= 16) store_shared16(to, unit);
              else if constexpr (L * S::SIZE == 8) store_shared8(to, {{unit.v[0], unit.v[1]}});
              else store_shared4(to, unit.v[0]);
            }
          }
        }
      }
      fence_async();
      sync_some(1 + group_out, TEAM);
      if (sender) {
        const int out = out0 + round * S::STAGED_OUTS, row = static_cast<int>(p.row_tile * S::ROWS);
        // With all lanes, the outputs of a vector are one run.
        if constexpr (S::LANES == S::D) tensor_store(y_map, buffer, out * S::D, p.super_block, row, 0);
        else tensor_store(y_map, buffer, p.lane_tile * S::LANES, out, p.super_block, row);
        bulk_commit();
      }
    }
  }
  static KS_DEVICE float bias_of(const Args& args, i64 at) { return T::load(args.bias, at); }
  static KS_DEVICE void complete(float (&v)[S::UNIT], float bias) {
    KS_UNROLL
    for (int e = 0; e < S::UNIT; ++e) v[e] = activate<S::ACTIVATION>(v[e] + bias);
  }
};

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
