// Tensor cores: the fragments of mma and wgmma, exact products, sums in f64 rounded to f32 once per instruction; conversions.
#include "machine.h"

#include <cmath>

namespace ks::emulated {

float half_to(u16 x) {
  static const std::vector<float> table = [] {
    std::vector<float> all(1 << 16);
    for (u32 w = 0; w < all.size(); w++) {
      const int exponent = w >> 10 & 31;
      const double fraction = w & 1023;
      double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
      all[w] = static_cast<float>(w >> 15 ? -value : value);
    }
    return all;
  }();
  return table[x];
}

u32 half_of(float x) {
  const u32 w = bits(x), sign = w >> 16 & 0x8000;
  if (x != x) return 0x7FFF;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= 65520) return sign | 0x7C00;  // half way to the next power rounds up to infinity
  if (magnitude == 0) return sign;
  int exponent;
  std::frexp(magnitude, &exponent);
  const int unit = exponent - 11 < -24 ? -24 : exponent - 11;  // the value of the last bit
  const double scaled = std::nearbyint(std::ldexp(magnitude, -unit));  // ties to even
  // A carry goes into the exponent by itself.
  return sign | (static_cast<u32>(unit + 24) * 1024 + static_cast<u32>(scaled));
}

u32 brain_of(float x) {
  const u32 w = bits(x);
  if (x != x) return 0x7FFF;
  return (w + 0x7FFF + (w >> 16 & 1)) >> 16;
}

namespace {
u32 depth(Number number) { return number == Number::TF32 ? 8 : 16; }

// Number `k` of a row of a fragment's registers: 16-bit types two to a word.
float element(Number number, u32 word, u32 half) {
  if (number == Number::TF32) return float_of(word & ~0x1FFFu);  // the hardware does not look at the low bits
  const u16 w = static_cast<u16>(word >> (16 * half));
  return number == Number::F16 ? half_to(w) : widen_bf16(w);
}

// Row-major 16 × K from the registers of 32 lanes. `a(lane)` gives the four words.
template <class A> void rows_of(Number number, A a, float* out) {
  const u32 k = depth(number), pair = number == Number::TF32 ? 1 : 2;
  for (u32 lane = 0; lane < LANES; lane++) {
    const u32 g = lane / 4, q = lane % 4;
    for (u32 word = 0; word < 4; word++)
      for (u32 half = 0; half < pair; half++)
        out[(g + 8 * (word & 1)) * k + (word >> 1) * (k / 2) + q * pair + half] = element(number, a(lane)[word], half);
  }
}
}  // namespace

void mma(Number number, float* d, const u32* a, u32 b0, u32 b1) {
  struct Operand {
    Number number;
    float* d;
    const u32* a;
    u32 b[2];
  } mine{number, d, a, {b0, b1}};
  const char* names[] = {"mma_f16", "mma_bf16", "mma_tf32"};
  Thread& t = self();
  together(t.block->warps[t.warp].party, LANES, t.lane, names[static_cast<int>(number)], &mine, [](void* const* all, u32) {
    auto of = [&](u32 lane) -> Operand& { return *static_cast<Operand*>(all[lane]); };
    const Number kind = of(0).number;
    const u32 k = depth(kind), pair = kind == Number::TF32 ? 1 : 2;
    float rows[16 * 16], columns[8 * 16];
    rows_of(kind, [&](u32 lane) { return of(lane).a; }, rows);
    for (u32 lane = 0; lane < LANES; lane++)
      for (u32 word = 0; word < 2; word++)
        for (u32 half = 0; half < pair; half++)
          columns[lane / 4 * k + word * (k / 2) + lane % 4 * pair + half] = element(kind, of(lane).b[word], half);
    for (u32 lane = 0; lane < LANES; lane++)
      for (u32 r = 0; r < 4; r++) {
        const float* x = rows + (lane / 4 + 8 * (r >> 1)) * k;
        const float* y = columns + (lane % 4 * 2 + (r & 1)) * k;
        double sum = of(lane).d[r];
        for (u32 at = 0; at < k; at++) sum += static_cast<double>(x[at]) * y[at];
        of(lane).d[r] = static_cast<float>(sum);
      }
  });
}

// ---- wgmma -------------------------------------------------------------------------------------------------------------

namespace {
Party& group() { return block().groups[self().index / GROUP]; }

void together_group(const char* what, void* operand, void (*work)(void* const*, u32)) {
  Thread& t = self();
  if ((t.index / GROUP + 1) * GROUP > t.block->threads.size()) fail("%s: warp %u is not part of a whole warpgroup", what, t.warp);
  together(group(), GROUP, t.index % GROUP, what, operand, work);
}

void whole_group(const char* what) {
  together_group(what, nullptr, [](void* const*, u32) {});
}

// A field of a descriptor: units of 16 bytes.
u32 field(u64 descriptor, int shift) { return static_cast<u32>(descriptor >> shift & 0x3FFF) << 4; }

// An address in the block's window as an offset into its memory.
u32 inside(u32 address, u32 bytes, const char* operand) {
  if (address < SHARED_BASE || address - SHARED_BASE + bytes > machine.launch->shared_bytes)
    fail("wgmma: %s reads %u bytes at shared+%lld, out of bounds: the block has %u bytes", operand, bytes, static_cast<long long>(address) - SHARED_BASE,
         machine.launch->shared_bytes);
  return address - SHARED_BASE;
}

// The 8 × 16-byte core matrices of B, as offsets into the block's memory.
template <class F> void each_core(const Multiplication& m, F f) {
  const u64 b = m.descriptor_b;
  if (b >> 62 != 0) fail("wgmma: B's descriptor asks for a swizzle, expected none");
  if (b & 0x3FFFC000C000C000ull & ~(0x3FFFull << 32)) fail("wgmma: B's descriptor %#llx has bits outside of its fields", b);
  for (u32 n = 0; n < m.n / 8; n++)
    for (u32 k = 0; k < 2; k++) f(n, k, inside(field(b, 0) + n * field(b, 32) + k * field(b, 16), 128, "B"));
}

// The 16-byte units of A, 16 rows for each warp, in lines of 128 bytes with their swizzle; as offsets into the block's memory.
template <class F> void each_unit(const Multiplication& m, u32 warp, F f) {
  const u64 a = m.descriptor_a;
  const u32 start = field(a, 0);
  if ((a & ~0x3FFFull) != (1ull << 16 | 64ull << 32 | 1ull << 62))
    fail("wgmma: A's descriptor %#llx has other bits than those of lines of 128 bytes with swizzle, eight to a kilobyte", a);
  if ((start & ~0x7Fu) % 1024 != 0 || start % 32 != 0)
    fail("wgmma: A starts at %#x of the window, expected one of the four steps of 32 bytes in the line at a multiple of 1024", start);
  for (u32 row = 0; row < 16; row++)
    for (u32 unit = 0; unit < 2; unit++) {
      const u32 line = warp * 16 + row;
      f(row, unit, inside(swizzled(start + line / 8 * 1024 + line % 8 * 128 + unit * 16, 128), 16, "A"));
    }
}

// All that one warp reads of shared memory.
template <class F> void each_read(const Multiplication& m, u32 warp, F f) {
  each_core(m, [&](u32, u32, u32 offset) { f(offset, 128); });
  if (m.a_shared) each_unit(m, warp, [&](u32, u32, u32 offset) { f(offset, 16); });
}

// Numbers from consecutive bytes of shared memory.
void numbers_of(Number number, const u8* from, u32 count, float* out) {
  const u32 size = number == Number::TF32 ? 4 : 2;
  for (u32 at = 0; at < count; at++) {
    u32 word = 0;
    std::memcpy(&word, from + at * size, size);
    out[at] = element(number, word, 0);
  }
}

// What one warp of the warpgroup has of a product; its rows come from the registers of its 32 lanes, or from shared memory. Sums
// go to `lanes[…]->sums`.
void multiply_warp(Block& b, u32 warp, Multiplication* const* lanes) {
  const Multiplication& first = *lanes[0];
  const u32 k = depth(first.number);
  float rows[16 * 16];
  if (first.a_shared) each_unit(first, warp, [&](u32 row, u32 unit, u32 offset) { numbers_of(first.number, b.shared + offset, k / 2, rows + row * k + unit * (k / 2)); });
  else rows_of(first.number, [&](u32 lane) { return lanes[lane]->a; }, rows);
  std::vector<float> columns(first.n * k);
  each_core(first, [&](u32 n, u32 half, u32 offset) {
    for (u32 row = 0; row < 8; row++) numbers_of(first.number, b.shared + offset + row * 16, k / 2, columns.data() + (n * 8 + row) * k + half * (k / 2));
  });
  for (u32 lane = 0; lane < LANES; lane++)
    for (u32 r = 0; r < first.n / 2; r++) {
      const float* x = rows + (lane / 4 + 8 * (r >> 1 & 1)) * k;
      const float* y = columns.data() + (r / 4 * 8 + lane % 4 * 2 + (r & 1)) * k;
      float* sums = lanes[lane]->sums->data();
      double sum = first.add ? sums[r] : 0;
      for (u32 at = 0; at < k; at++) sum += static_cast<double>(x[at]) * y[at];
      sums[r] = static_cast<float>(sum);
    }
}

// The sums of `d`, shared with the products under way that add to the same registers.
std::shared_ptr<std::vector<float>> sums_of(Thread& t, float* d, u32 count) {
  auto same = [&](const std::vector<Multiplication>& list) -> const Multiplication* {
    for (const Multiplication& m : list) {
      if (m.d == d && m.n == 2 * count) return &m;
      if (d < m.d + m.n / 2 && m.d < d + count) fail("wgmma: the sums overlap those of a product that is under way, without being the same");
    }
    return nullptr;
  };
  if (const Multiplication* m = same(t.products_open)) return m->sums;
  for (const auto& list : t.products)
    if (const Multiplication* m = same(list)) return m->sums;
  return std::make_shared<std::vector<float>>(d, d + count);
}
}  // namespace

void wgmma_fence() {
  whole_group("wgmma_fence");
  self().products_fenced = true;
}

namespace {
void begin(Multiplication m) {
  const char* names[][3] = {{"wgmma f16", "wgmma bf16", "wgmma tf32"}, {"wgmma f16 with A in shared memory", "wgmma bf16 with A in shared memory", ""}};
  Thread& t = self();
  if (!t.products_fenced) fail("wgmma: registers may have changed since the last wgmma_wait, and wgmma_fence has not been called since");
  m.sums = sums_of(t, m.d, m.n / 2);
  // The warp reads as one; its first lane stands for it.
  if (t.lane == 0) each_read(m, t.warp % (GROUP / LANES), [&](u32 offset, u32 bytes) { begin_reading(*t.block, offset, bytes, "wgmma"); });
  t.products_open.push_back(m);
  if (machine.launch->late)
    for (u32 at = 0; at < m.n / 2; at++) m.d[at] = NAN;
  together_group(names[m.a_shared][static_cast<int>(m.number)], &t.products_open.back(), [](void* const* all, u32) {
    auto* const* lanes = reinterpret_cast<Multiplication* const*>(all);
    auto named = [](const Multiplication& m) {
      const std::string a = m.a_shared ? text("A %#llx, ", m.descriptor_a) : "";
      return text("%sB %#llx, N %u, %s", a.c_str(), m.descriptor_b, m.n, m.add ? "adding" : "not adding");
    };
    const Multiplication& first = *lanes[0];
    for (u32 at = 1; at < GROUP; at++) {
      const Multiplication& m = *lanes[at];
      if (m.descriptor_a != first.descriptor_a || m.descriptor_b != first.descriptor_b || m.n != first.n || m.add != first.add)
        fail("wgmma: thread %u of the warpgroup names %s; thread 0 names %s", at, named(m).c_str(), named(first).c_str());
    }
    if (machine.launch->late) return;
    for (u32 warp = 0; warp < GROUP / LANES; warp++) multiply_warp(block(), warp, lanes + warp * LANES);
    for (u32 at = 0; at < GROUP; at++) std::memcpy(lanes[at]->d, lanes[at]->sums->data(), lanes[at]->n * 2);
  });
}
}  // namespace

void wgmma(Number number, u32 n, float* d, const u32* a, u64 descriptor_b) {
  begin({number, n, d, true, false, {a[0], a[1], a[2], a[3]}, 0, descriptor_b, nullptr});
}

void wgmma_shared(Number number, u32 n, float* d, u64 descriptor_a, u64 descriptor_b, bool add) {
  begin({number, n, d, add, true, {}, descriptor_a, descriptor_b, nullptr});
}

void wgmma_commit() {
  whole_group("wgmma_commit");
  self().products.push_back(std::move(self().products_open));
  self().products_open.clear();
}

void wgmma_wait(u32 pending) {
  self().keep = pending;
  self().products_fenced = false;
  together_group("wgmma_wait", &self(), [](void* const* all, u32) {
    auto lane = [&](u32 at) -> Thread& { return *static_cast<Thread*>(all[at]); };
    const u32 left = lane(0).keep;
    for (u32 at = 1; at < GROUP; at++)
      if (lane(at).keep != left || lane(at).products.size() != lane(0).products.size()) fail("wgmma_wait: the warpgroup does not agree on what is under way");
    for (; lane(0).products.size() > left; ) {
      for (size_t product = 0; product < lane(0).products.front().size(); product++) {
        Multiplication* parts[GROUP];
        for (u32 at = 0; at < GROUP; at++) parts[at] = &lane(at).products.front()[product];
        if (machine.launch->late)
          for (u32 warp = 0; warp < GROUP / LANES; warp++) multiply_warp(block(), warp, parts + warp * LANES);
        for (u32 at = 0; at < GROUP; at += LANES) {
          Thread* last = machine.self;
          machine.self = &lane(at);
          each_read(*parts[at], at / LANES, [&](u32 offset, u32 bytes) { end_reading(block(), offset, bytes); });
          machine.self = last;
        }
      }
      for (u32 at = 0; at < GROUP; at++) {
        std::vector<Multiplication> over = std::move(lane(at).products.front());
        lane(at).products.pop_front();
        // The sums are there when the last product that adds to them is over.
        for (Multiplication& m : over) {
          u32 users = 0;
          for (const auto& list : lane(at).products)
            for (const Multiplication& other : list) users += other.sums == m.sums;
          for (const Multiplication& other : lane(at).products_open) users += other.sums == m.sums;
          if (users == 0) std::memcpy(m.d, m.sums->data(), m.n * 2);
        }
      }
    }
    // The lanes of a warp stood at the same instruction: what one says afterwards, it says for all.
    for (u32 warp = 0; warp < GROUP; warp += LANES) {
      std::vector<Thread*> members;
      for (u32 at = warp; at < warp + LANES; at++) members.push_back(&lane(at));
      meet(members);
    }
  });
}

// ---- setmaxnreg --------------------------------------------------------------------------------------------------------

void registers_change(u32 count, bool increase) {
  const char* what = increase ? "registers_increase" : "registers_decrease";
  if (count % 8 != 0 || count < 24 || count > 256) fail("%s: %u, expected a multiple of 8 from 24 to 256", what, count);
  whole_group(what);
  Thread& t = self();
  Warp& w = t.block->warps[t.warp];
  if (t.lane == 0) {
    if (increase ? count < w.registers : count > w.registers)
      fail("%s: to %u, but each thread has %u", what, count, w.registers);
    if (!increase) t.block->registers_free += (w.registers - count) * LANES;
    else {
      wait(what, [](const Thread& s) { return s.block->registers_free >= s.on[0]; }, (count - w.registers) * LANES, count);
      t.block->registers_free -= (count - w.registers) * LANES;
    }
    w.registers = count;
  }
  whole_group(what);
}

}  // namespace ks::emulated
