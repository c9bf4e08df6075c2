// mma: one 16 × 8 product of each type, fragments loaded element by element as the PTX manual says. A row-major, B column by column.
#include "args.cuh"
KS_KERNEL(32) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  const u32 lane = thread_index(), g = lane / 4, q = lane % 4;
  float d[4] = {1.f, 2.f, 3.f, 4.f};
  u32 a[4], b[2];
  const u32 kind = static_cast<u32>(args.n);  // 0 f16, 1 bf16, 2 tf32
  if (kind == 2) {
    const u32 *x = static_cast<const u32*>(args.x), *w = static_cast<const u32*>(args.w);
    for (u32 r = 0; r < 4; r++) a[r] = load_global4(x + (g + 8 * (r & 1)) * 8 + q + 4 * (r >> 1));
    for (u32 r = 0; r < 2; r++) b[r] = load_global4(w + g * 8 + q + 4 * r);
    mma_tf32(d, a, b[0], b[1]);
  } else {
    const u16 *x = static_cast<const u16*>(args.x), *w = static_cast<const u16*>(args.w);
    for (u32 r = 0; r < 4; r++) a[r] = load_global4(x + (g + 8 * (r & 1)) * 16 + 2 * q + 8 * (r >> 1));
    for (u32 r = 0; r < 2; r++) b[r] = load_global4(w + g * 16 + 2 * q + 8 * r);
    if (kind == 0) mma_f16(d, a, b[0], b[1]);
    else mma_bf16(d, a, b[0], b[1]);
  }
  float* y = static_cast<float*>(args.y);
  for (u32 r = 0; r < 4; r++) store_global4(y + (g + 8 * (r >> 1)) * 8 + 2 * q + (r & 1), bits(d[r]));
}
