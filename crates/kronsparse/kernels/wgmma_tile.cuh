// The tile of lanes_wgmma: the numbers that the host prints, and everything that follows from them.
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
template <class T_, Geometry GEOMETRY_, Activation ACTIVATION_, bool BIAS_, Join JOIN_, int A_, int B_, int C_, int D_, int LANES_PER_GROUP_,
          int LANE_GROUPS_, int ROW_GROUPS_, int OUT_GROUPS_, int OUTS_PER_GROUP_, int MTILES_, int DEPTH_, int STAGES_, int SHARE_X_,
          int SHARE_W_, int STAGED_OUTS_, int TOGETHER_, int PIECE_, bool SPREAD_ROWS_, int CONSUMER_REGISTERS_>
struct WgmmaTile {
  using T = T_;
  static constexpr Geometry GEOMETRY = GEOMETRY_;
  static constexpr Activation ACTIVATION = ACTIVATION_;
  static constexpr bool BIAS = BIAS_, SPREAD_ROWS = SPREAD_ROWS_;
  static constexpr Join JOIN = JOIN_;
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
}  // namespace ks
