// From a stage of X in shared memory to the A fragments of wgmma: for every geometry, where a thread's numbers lie and which
// byte permutes pair them.
#pragma once
#include "wgmma_tile.cuh"

namespace ks {

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

}  // namespace ks
