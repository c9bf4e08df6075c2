// Tensor cores through mma.sync, fed by cp.async (sm_80 and later): fragments of consecutive lanes. What is contiguous in X —
// lanes, terms or vectors — is loaded from shared memory 16 bytes at a time, as it came from global memory, and byte permutes
// in registers make fragments of it for several lanes (or several row tiles) at once. Nothing is transposed in memory.
// Blocks walk over the batch; the weights wait in shared memory, or stream through the same ring as X. All masks are here:
// any n, b, c, d; what lies beyond c is read as zero, what lies beyond n, b and d is not stored.
#pragma once
#include "args.cuh"
#include "epilogue.cuh"
#include "lanes_mma_tile.cuh"
#include "lanes_mma_words.cuh"

namespace ks {

template <class Number, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, int A, int B, int C, int D, int ROWS, int LANES, int OUTS, int DEPTH, int STAGES,
          int WARPS_R, int WARPS_J, int WARPS_O, bool RESIDENT, bool REGROUP, int ALIGN, int SHARED>
struct LanesMma {
  static constexpr bool LAST = LAYOUT == Layout::BatchLast;
  using G = MmaTile<Number, LAST, A, B, C, D, ROWS, LANES, OUTS, DEPTH, STAGES, WARPS_R, WARPS_J, WARPS_O, RESIDENT, REGROUP, ALIGN>;
  static_assert(G::SHARED == SHARED, "the host and the kernel disagree on the shared memory");
  static constexpr int E = G::E, JW = G::WARP_LANES, TILES = G::TILES, COLUMNS = G::COLUMNS, THREADS = G::THREADS;

  const Args& args;
  u8* const shared;
  const int thread, lane, g, q, warp_row, warp_lane, warp_out;
  // Batch-last: the widest copy and store that rows of n numbers allow.
  const int last_vector;
  float sum[JW][TILES][COLUMNS][4];

  KS_DEVICE explicit LanesMma(const Args& a)
      : args(a), shared(shared_memory()), thread(thread_index()), lane(thread & 31), g(lane >> 2), q(lane & 3), warp_row(thread / 32 % WARPS_R),
        warp_lane(thread / 32 / WARPS_R % WARPS_J), warp_out(thread / 32 / (WARPS_R * WARPS_J)),
        last_vector(a.n * E % 16 == 0 ? 16 : a.n * E % 4 == 0 ? 4 : 2) {}

  // Where a tile is: first vector, super-block, first lane, first output, and the number of its weights.
  struct Place {
    i64 n0;
    int i, j0, o0, group;
  };
  static KS_DEVICE Place place(i64 item) {
    const i64 row_tile = item / G::GROUPS;
    const int group = static_cast<int>(item - row_tile * G::GROUPS);
    return {row_tile * ROWS, group / (G::LANE_TILES * G::OUT_TILES), group / G::OUT_TILES % G::LANE_TILES * LANES, group % G::OUT_TILES * OUTS, group};
  }

  // --- loads -----------------------------------------------------------------------------------------------------------------

  template <int VECTOR> KS_DEVICE void load_rows(u8* stage, const Place& at, int l0) const {
    constexpr int BYTES = piece_bytes(VECTOR, G::SPLIT ? G::UNIT : 16), LINE = G::SPLIT ? LANES * E / BYTES : 1, PIECES = G::LINE_BYTES / BYTES;
    const u8* from = static_cast<const u8*>(args.x) + (((at.n0 * A + at.i) * C + l0) * D + (G::SPLIT ? at.j0 : 0)) * E;
    const int rows = args.n - at.n0 < ROWS ? static_cast<int>(args.n - at.n0) : ROWS;
    copy_pieces<BYTES, VECTOR, 4, THREADS, ROWS, PIECES, true>(stage, from, thread, [&](int line, int piece, int more) {
      const int row = line + more;
      bool valid = row < rows;
      i64 source = static_cast<i64>(line) * (i64(A) * C * D * E) + more * (i64(A) * C * D * E);
      int target = line * G::STRIDE + more * G::STRIDE, left = BYTES;
      if constexpr (G::SPLIT) {
        const int l = piece / LINE, byte = piece % LINE * BYTES, in_group = l % G::GROUP;
        if (C % DEPTH != 0) valid = valid && l0 + l < C;
        if (D % LANES != 0) left = D * E - (at.j0 * E + byte);
        source += l * (i64(D) * E) + byte;
        const int term = G::swap_term(row, in_group / 4), unit = G::swap_unit(row, byte / G::UNIT);
        target += (((l / G::GROUP * G::TERMS + term) * G::UNITS + unit) * 4 + in_group % 4) * G::UNIT + byte % G::UNIT;
      } else {
        if (C % DEPTH != 0) left = (C - l0) * (D * E) - piece * BYTES;
        source += piece * BYTES;
        target += piece * BYTES;
      }
      return Piece{target, source, valid ? left : 0};
    });
  }

  template <int VECTOR> KS_DEVICE void load_lines(u8* stage, const Place& at, int l0) const {
    constexpr int BYTES = piece_bytes(VECTOR, 16), PIECES = G::LINE_BYTES / BYTES;
    const i64 row = args.n * E;
    const u8* from = static_cast<const u8*>(args.x) + ((i64(at.i) * C + l0) * D + at.j0) * row + at.n0 * E;
    const int bytes = args.n - at.n0 < ROWS ? static_cast<int>(args.n - at.n0) * E : ROWS * E;
    // Two, since kernels of aligned rows have this code too, and would be held up by its registers.
    copy_pieces<BYTES, VECTOR, 2, THREADS, DEPTH * LANES, PIECES, VECTOR == 16>(stage, from, thread, [&](int line, int piece, int more) {
      const int l = (line + more) / LANES, j = (line + more) % LANES, byte = piece * BYTES;
      bool valid = true;
      if (C % DEPTH != 0) valid = valid && l0 + l < C;
      if (D % LANES != 0) valid = valid && at.j0 + j < D;
      const int target = (j * DEPTH + l) * G::STRIDE + (((byte / 16) ^ ((l & 3) << 1)) * 16 + byte % 16);
      return Piece{target, (i64(l) * D + j) * row + byte, valid ? bytes - byte : 0};
    });
  }

  // `bytes` consecutive bytes of weights, a multiple of FRAGMENT.
  KS_DEVICE void load_weights(u8* to, const Place& at, int chunk, int bytes) const {
    const u8* from = static_cast<const u8*>(args.w) + i64(at.group) * G::W_TILE + i64(chunk) * G::W_CHUNK;
    for (int byte = thread * 16; byte < bytes; byte += THREADS * 16) copy_async<16>(to + byte, from + byte, true);
  }

  KS_DEVICE void load_x(u8* stage, const Place& at, int chunk) const {
    const int l0 = chunk * DEPTH;
    if constexpr (!LAST) {
      load_rows<G::X_VECTOR>(stage, at, l0);
    } else {
      if (ALIGN == 16 && last_vector == 16) load_lines<16>(stage, at, l0);
      else if (ALIGN >= 4 && last_vector >= 4) load_lines<4>(stage, at, l0);
      else load_lines<2>(stage, at, l0);
    }
  }

  // --- products --------------------------------------------------------------------------------------------------------------

  // Batch-first: number e·JW + j of `words` becomes term `e` of this thread's group, lane j of the warp, of one row.
  KS_DEVICE void row_words(u32* words, const u8* stage, int row, int group) const {
    const u8* from = stage + row * G::STRIDE;
    KS_UNROLL
    for (int e = 0; e < G::TERMS; e += G::PAIRED) {
      if constexpr (G::WHOLE) {
        constexpr int BYTES = G::PAIRED * D * E;
        KS_UNROLL
        for (int b = 0; b < BYTES; b += G::UNIT)
          take_words<G::UNIT>(words + (e / G::PAIRED * BYTES + b) / 4, from + (group * G::GROUP + e * 4) * (D * E) + q * BYTES + b);
      } else if constexpr (G::SPLIT) {
        KS_UNROLL
        for (int u = 0; u < G::WARP_UNITS; ++u)
          take_words<G::UNIT>(words + (e * G::WARP_UNITS + u) * (G::UNIT / 4),
                     from + (((group * G::TERMS + G::swap_term(g, e)) * G::UNITS + G::swap_unit(g, warp_lane * G::WARP_UNITS + u)) * 4 + q) * G::UNIT);
      } else {
        const u8* lanes = from + ((group * G::GROUP + e * 4 + q) * D + warp_lane * JW) * E;
        if constexpr (G::UNIT >= 4) {
          KS_UNROLL
          for (int b = 0; b < JW * E; b += 4) words[(e * JW * E + b) / 4] = load_shared4(lanes + b);
        } else {
          KS_UNROLL
          for (int j = 0; j < JW; ++j) {
            const int k = e * JW + j;
            const u32 number = load_shared2(lanes + j * 2);
            words[k / 2] = k % 2 == 0 ? number : words[k / 2] | number << 16;
          }
        }
      }
    }
  }

  // Numbers `first` and `second` of a row of words of two numbers, in one word.
  static KS_DEVICE u32 pair(const u32* words, int first, int second) {
    if (first % 2 == 0 && second == first + 1) return words[first / 2];
    return permute_bytes(words[first / 2], words[second / 2], (first % 2 ? 0x32u : 0x10u) | (second % 2 ? 0x7600u : 0x5400u));
  }

  // What a thread loads of X for a group of steps: batch-first by row, batch-last by unit of vectors.
  static constexpr int WORDS = (G::TERMS * JW * E + 3) / 4;
  using Rows = u32[LAST ? 1 : TILES][2][LAST ? 1 : WORDS];
  using Units = u32[LAST ? JW : 1][LAST ? G::LAST_SETS : 1][LAST ? G::TERMS : 1][4];

  // Fragment A of one row tile and lane.
  static KS_DEVICE typename Number::Data fragment(const Rows& rows, const Units& units, int tile, int step, int j) {
    u32 a[4];
    KS_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int half = r % 2, e = step * G::OWN + r / 2 * (G::OWN / 2);
      if constexpr (LAST) {
        const int set = tile / G::LAST_TILES, number = tile % G::LAST_TILES * 2 + half;
        if constexpr (E == 4) a[r] = units[j][set][e][number];
        else a[r] = permute_bytes(units[j][set][e][number / 2], units[j][set][e + 1][number / 2], half ? 0x7632u : 0x5410u);
      } else {
        if constexpr (E == 4) a[r] = rows[tile][half][e * JW + j];
        else a[r] = pair(rows[tile][half], e * JW + j, (e + 1) * JW + j);
      }
    }
    return Number::data(a);
  }
  // Fragments B of two neighbouring column groups.
  KS_DEVICE void load_columns(typename Number::Weights& w0, typename Number::Weights& w1, const u8* from) const {
    const U4 v = load_shared16(from + lane * 16);
    w0 = Number::weights(v.v[0], v.v[1]), w1 = Number::weights(v.v[2], v.v[3]);
  }

  KS_DEVICE void multiply_chunk(const u8* stage, const u8* weights) {
    KS_UNROLL_BY(1)
    for (int group = 0; group < DEPTH / G::GROUP; ++group) {
      Rows rows;
      Units units;
      if constexpr (LAST) {
        KS_UNROLL
        for (int j = 0; j < JW; ++j)
          KS_UNROLL
          for (int set = 0; set < G::LAST_SETS; ++set)
            KS_UNROLL
            for (int e = 0; e < G::TERMS; ++e) {
              const int line = (warp_lane * JW + j) * DEPTH + group * G::GROUP + e * 4 + q;
              const int unit = warp_row * (G::WARP_ROWS * E / 16) + set * 8 + g;
              take_words<G::UNIT>(units[j][set][e], stage + line * G::STRIDE + (unit ^ (q << 1)) * 16);
            }
      } else {
        KS_UNROLL
        for (int tile = 0; tile < TILES; ++tile)
          KS_UNROLL
          for (int half = 0; half < 2; ++half) row_words(rows[tile][half], stage, warp_row * G::WARP_ROWS + tile * 16 + half * 8 + g, group);
      }
      KS_UNROLL
      for (int step = 0; step < G::STEPS; ++step) {
        KS_UNROLL
        for (int j = 0; j < JW; ++j) {
          const u8* from = weights + (group * G::STEPS + step) * G::W_STEP + ((warp_lane * JW + j) * (OUTS / 16) + warp_out * (COLUMNS / 2)) * G::FRAGMENT;
          if constexpr (TILES > 2 && !LAST) {
            typename Number::Weights w[COLUMNS];
            KS_UNROLL
            for (int u = 0; u < COLUMNS; u += 2) load_columns(w[u], w[u + 1], from + u / 2 * G::FRAGMENT);
            KS_UNROLL
            for (int tile = 0; tile < TILES; ++tile) {
              const typename Number::Data x = fragment(rows, units, tile, step, j);
              KS_UNROLL
              for (int u = 0; u < COLUMNS; ++u) Number::multiply(sum[j][tile][u], x, w[u]);
            }
          } else {
            typename Number::Data x[TILES];
            KS_UNROLL
            for (int tile = 0; tile < TILES; ++tile) x[tile] = fragment(rows, units, tile, step, j);
            KS_UNROLL
            for (int u = 0; u < COLUMNS; u += 2) {
              typename Number::Weights w0, w1;
              load_columns(w0, w1, from + u / 2 * G::FRAGMENT);
              KS_UNROLL
              for (int tile = 0; tile < TILES; ++tile) {
                Number::multiply(sum[j][tile][u], x[tile], w0);
                Number::multiply(sum[j][tile][u + 1], x[tile], w1);
              }
            }
          }
        }
      }
    }
  }

  // --- stores ----------------------------------------------------------------------------------------------------------------

  // Two outputs that are joined meet when they are stored.
  using Words = MmaWords<Number, KIND, JOIN>;
  static constexpr int OF = Words::OF, PER_WORD = Words::PER_WORD;
  KS_DEVICE const u8* residual(i64 place) const { return static_cast<const u8*>(args.residual) + place; }
  static constexpr Activation FINISH = JOIN == Join::Gate ? Activation::None : KIND;

  // Bias and activation, on the sums in place.
  KS_DEVICE void finish(const Place& at) {
    if constexpr (BIAS || FINISH != Activation::None) {
      // The outputs of a column are at constant distances from the thread's first one.
      const int o0 = at.o0 + warp_out * G::WARP_OUTS + q * G::RUN, j0 = at.j0 + warp_lane * JW;
      const u8* from = BIAS ? static_cast<const u8*>(args.bias) + ((i64(at.i) * B + o0) * D + j0) * E : nullptr;
      KS_UNROLL
      for (int j = 0; j < JW; ++j)
        KS_UNROLL
        for (int u = 0; u < COLUMNS; ++u)
          KS_UNROLL
          for (int x = 0; x < 2; ++x) {
            const int o = G::output(u, 0, x);
            float bias = 0.f;
            const bool valid = (B % OUTS == 0 || o0 + o < B) && (D % LANES == 0 || j0 + j < D);
            if (BIAS && valid) bias = Number::load(from + (o * D + j) * E);
            KS_UNROLL
            for (int tile = 0; tile < TILES; ++tile)
              KS_UNROLL
              for (int half = 0; half < 2; ++half) {
                float& s = sum[j][tile][u][half * 2 + x];
                s = activate_sum<FINISH>(s + bias);
              }
          }
    }
  }

  // Batch-first, straight from the registers: RUN outputs × all lanes, or one output × the warp's lanes, are contiguous.
  KS_DEVICE void store_rows(const Place& at) const {
    constexpr int OUTPUTS = G::WHOLE ? G::RUN : 1, NUMBERS = OUTPUTS * JW;
    static_assert(JOIN != Join::Gate || (G::WHOLE ? B * D % 2 == 0 : D % 2 == 0 && JW % 2 == 0), "a thread has both outputs that are joined");
    KS_UNROLL
    for (int tile = 0; tile < TILES; ++tile)
      KS_UNROLL
      for (int half = 0; half < 2; ++half) {
        const i64 row = at.n0 + warp_row * G::WARP_ROWS + tile * 16 + half * 8 + g;
        if (row >= args.n) continue;
        KS_UNROLL
        for (int first = 0; first < G::WARP_OUTS / 4; first += OUTPUTS) {
          // The thread's outputs in order: number k is column k % 2 of group k / 2.
          const int o = at.o0 + warp_out * G::WARP_OUTS + G::output(first / 2, q, first % 2), j = at.j0 + warp_lane * JW;
          u32 words[(NUMBERS + PER_WORD - 1) / PER_WORD];
          KS_UNROLL
          for (int k = 0; k < NUMBERS; k += PER_WORD) {
            const int k1 = k + 1 < NUMBERS ? k + 1 : k, t0 = first + k / JW, t1 = first + k1 / JW;
            words[k / PER_WORD] = Words::word(sum[k % JW][tile][t0 / 2][half * 2 + t0 % 2], sum[k1 % JW][tile][t1 / 2][half * 2 + t1 % 2]);
          }
          const int valid = G::WHOLE ? (B - o) * D * E : o < B ? (D - j) * E : 0;
          const i64 place = (((row * A + at.i) * B + o) * D + j) * E / OF;
          if constexpr (JOIN == Join::Residual) Words::template add_residual<NUMBERS * E, G::RUN_VECTOR>(words, residual(place), valid);
          if constexpr (JOIN == Join::Gate) Words::template gate_words<NUMBERS>(words);
          Words::template store_words<NUMBERS * E / OF, Words::halved(G::RUN_VECTOR)>(static_cast<u8*>(args.y) + place, words, valid / OF);
        }
      }
  }

  // Batch-first through shared memory: one column group of every warp at a time, then runs of all the tile's lanes.
  KS_DEVICE void store_regrouped(const Place& at) const {
    if constexpr (REGROUP) {
      KS_UNROLL
      for (int u = 0; u < COLUMNS; ++u) {
        u8* buffer = shared + G::REGROUP_OFFSET + u % 2 * G::REGROUP_BYTES;
        KS_UNROLL
        for (int tile = 0; tile < TILES; ++tile)
          KS_UNROLL
          for (int part = 0; part < 4; ++part) {
            const int row = warp_row * G::WARP_ROWS + tile * 16 + part / 2 * 8 + g, o = warp_out * 8 + q * 2 + part % 2;
            u8* to = buffer + row * G::REGROUP_STRIDE + o * G::OUT_STRIDE + warp_lane * JW * E;
            KS_UNROLL
            for (int b = 0; b < JW * E; b += G::UNIT) {
              u32 w[G::UNIT / 4];
              KS_UNROLL
              for (int k = 0; k < G::UNIT / 4; ++k) {
                const int j = b / E + k * (4 / E), next = E == 2 ? j + 1 : j;
                w[k] = Words::word(sum[j][tile][u][part], sum[next][tile][u][part]);
              }
              if constexpr (G::UNIT == 16) store_shared16(to + b, {{w[0], w[1], w[2], w[3]}});
              else store_shared8(to + b, {{w[0], w[1]}});
            }
          }
        sync_block();
        constexpr int VECTOR = JOIN == Join::Gate ? Words::halved(G::REGROUP_VECTOR) : G::REGROUP_VECTOR, LINE = LANES * E / OF / VECTOR;
        share_pieces<THREADS, ROWS, G::REGROUP_OUTS * LINE, (VECTOR >= 8)>(thread, [&](int line, int piece, int more) {
          const int row = line + more, o8 = piece / LINE, byte = piece % LINE * VECTOR;
          const int o = at.o0 + o8 / 8 * G::WARP_OUTS + u * 8 + o8 % 8;
          if (at.n0 + row >= args.n || o >= B || at.j0 * E / OF + byte >= D * E / OF) return;
          const u8* from = buffer + row * G::REGROUP_STRIDE + o8 * G::OUT_STRIDE + byte * OF;
          const i64 place = ((((at.n0 + row) * A + at.i) * B + o) * D + at.j0) * E / OF + byte;
          U4 words = Words::template take_shared<VECTOR>(from);
          if constexpr (JOIN == Join::Residual) Words::template add_residual<VECTOR, VECTOR>(words.v, residual(place), VECTOR);
          if constexpr (JOIN == Join::Gate) words = Words::template gate_units<VECTOR>(words, Words::template take_shared<VECTOR>(from + VECTOR));
          Words::template store_words<VECTOR, VECTOR>(static_cast<u8*>(args.y) + place, words.v, VECTOR);
        });
      }
    }
  }

  // Batch-last: a thread holds 16 consecutive bytes of one (output, lane).
  template <int VECTOR> KS_DEVICE void store_lines(const Place& at) const {
    constexpr int UNIT_NUMBERS = 16 / E;
    // Of a gate, two lanes, or without lanes two outputs, make one.
    constexpr int LANE_STEP = JOIN == Join::Gate && D % 2 == 0 ? 2 : 1, OUT_STEP = OF / LANE_STEP;
    static_assert(JOIN != Join::Gate || (D % 2 == 0 ? JW % 2 == 0 : D == 1 && B % 2 == 0), "a thread has both outputs that are joined");
    KS_UNROLL
    for (int j = 0; j < JW; j += LANE_STEP)
      KS_UNROLL
      for (int u = 0; u < COLUMNS; ++u)
        KS_UNROLL
        for (int x = 0; x < 2; x += OUT_STEP) {
          const int o = at.o0 + warp_out * G::WARP_OUTS + G::output(u, q, x), lane_j = at.j0 + warp_lane * JW + j;
          if ((B % OUTS != 0 && o >= B) || (D % LANES != 0 && lane_j >= D)) continue;
          KS_UNROLL
          for (int set = 0; set < G::LAST_SETS; ++set) {
            const i64 first = at.n0 + warp_row * G::WARP_ROWS + (set * 8 + g) * UNIT_NUMBERS;
            const auto gather = [&](u32* words, int of_j, int of_x) {
              KS_UNROLL
              for (int k = 0; k < 4; ++k) {
                const int s = k * PER_WORD, tile = set * G::LAST_TILES + s / 2;
                words[k] = Words::word(sum[of_j][tile][u][s % 2 * 2 + of_x], sum[of_j][tile][u][(s + PER_WORD - 1) % 2 * 2 + of_x]);
              }
            };
            u32 words[4];
            gather(words, j, x);
            const i64 left = (args.n - first) * E;  // not positive beyond the last vector
            const int valid = left < 16 ? static_cast<int>(left) : 16;
            const i64 place = (((i64(at.i) * B + o) * D + lane_j) / OF * args.n + first) * E;
            if constexpr (JOIN == Join::Residual) Words::template add_residual<16, VECTOR>(words, residual(place), valid);
            if constexpr (JOIN == Join::Gate) {
              u32 ups[4];
              gather(ups, j + LANE_STEP - 1, x + OUT_STEP - 1);
              KS_UNROLL
              for (int k = 0; k < UNIT_NUMBERS; ++k) Words::put_number(words, k, Words::gated(Number::at(words, k), Number::at(ups, k)));
            }
            Words::template store_words<16, VECTOR>(static_cast<u8*>(args.y) + place, words, valid);
          }
        }
  }

  KS_DEVICE void store(const Place& at) {
    finish(at);
    if constexpr (REGROUP) store_regrouped(at);
    else if constexpr (!LAST) store_rows(at);
    else if (ALIGN == 16 && last_vector == 16) store_lines<16>(at);
    else if (ALIGN >= 4 && last_vector >= 4) store_lines<4>(at);
    else store_lines<2>(at);
  }

  // --- the walk --------------------------------------------------------------------------------------------------------------

  KS_DEVICE void clear() {
    KS_UNROLL
    for (int j = 0; j < JW; ++j)
      KS_UNROLL
      for (int tile = 0; tile < TILES; ++tile)
        KS_UNROLL
        for (int u = 0; u < COLUMNS; ++u)
          KS_UNROLL
          for (int k = 0; k < 4; ++k) sum[j][tile][u][k] = 0.f;
  }

  KS_DEVICE void run() {
    // With resident weights the grid is a multiple of GROUPS, so that a block stays with its group.
    const i64 items = (args.n + ROWS - 1) / ROWS * G::GROUPS, stride = grid_size();
    i64 item = block_index();
    int slot = 0;
    if (item >= items) return;
    RingWalk<STAGES, G::CHUNKS> next{item, 0, 0}, ahead = next;
    const auto load_next = [&](bool weights) {
      if (next.item < items) {
        u8* stage = shared + next.slot * G::STAGE_BYTES;
        load_x(stage, place(next.item), next.chunk);
        if (weights) load_weights(stage + G::X_BYTES, place(next.item), next.chunk, G::W_CHUNK);
        next.go_on(stride);
      }
      copy_commit();
    };
    // Weights need not wait.
    if constexpr (RESIDENT) load_weights(shared + G::W_OFFSET, place(item), 0, G::W_TILE);
    KS_UNROLL
    for (int s = 0; s < STAGES - 1 && !RESIDENT && ahead.item < items; ++s, ahead.go_on(stride))
      load_weights(shared + ahead.slot * G::STAGE_BYTES + G::X_BYTES, place(ahead.item), ahead.chunk, G::W_CHUNK);
    wait_for_previous();
    KS_UNROLL
    for (int s = 0; s < STAGES - 1; ++s) load_next(false);
    for (; item < items; item += stride) {
      clear();
      for (int chunk = 0; chunk < G::CHUNKS; ++chunk) {
        copy_wait<STAGES - 2>();
        sync_block();
        load_next(!RESIDENT);
        const u8* stage = shared + slot * G::STAGE_BYTES;
        multiply_chunk(stage, RESIDENT ? shared + G::W_OFFSET + chunk * G::W_CHUNK : stage + G::X_BYTES);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
      }
      store(place(item));
    }
  }
};

template <class Number, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, int A, int B, int C, int D, int ROWS, int LANES, int OUTS, int DEPTH, int STAGES,
          int WARPS_R, int WARPS_J, int WARPS_O, bool RESIDENT, bool REGROUP, int ALIGN, int SHARED>
KS_DEVICE void lanes_mma(const Args& args) {
  LanesMma<Number, LAYOUT, KIND, BIAS, JOIN, A, B, C, D, ROWS, LANES, OUTS, DEPTH, STAGES, WARPS_R, WARPS_J, WARPS_O, RESIDENT, REGROUP, ALIGN, SHARED> kernel(args);
  kernel.run();
}

}  // namespace ks
