// wgmma: 64 × N sums of two steps, A from global memory, B written to shared memory by all threads; registers given back and taken.
#include "args.cuh"
#include "types.cuh"
KS_KERNEL(384) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  constexpr u32 N = 24, WORDS = 8;  // words of a row of A or B, two steps of 16 halves or 8 TF32
  u8* shared = shared_memory();
  const u32 t = thread_index(), lane = t % 32, warp = t / 32, g = lane / 4, q = lane % 4;
  const u32 *x = static_cast<const u32*>(args.x), *w = static_cast<const u32*>(args.w);
  // B: 8 rows × 16 bytes lie together; along k, then along n.
  for (u32 at = t; at < N * WORDS * 2; at += 384) {
    const u32 step = at / (N * WORDS), n = at / WORDS % N, word = at % WORDS;
    const u32 place = step * (N * 32) + n / 8 * 256 + word / 4 * 128 + n % 8 * 16 + word % 4 * 4;
    store_shared4(shared + place, load_global4(w + (n * 2 + step) * WORDS + word));
  }
  fence_async();
  sync_block();
  if (warp >= 4) {
    registers_decrease<40>();
    return;
  }
  registers_increase<232>();
  float d[N / 2];
  for (u32 r = 0; r < N / 2; r++) d[r] = static_cast<float>(r);
  u32 a[2][4];
  for (u32 step = 0; step < 2; step++)
    for (u32 r = 0; r < 4; r++) a[step][r] = load_global4(x + ((warp * 16 + g + 8 * (r & 1)) * 2 + step) * WORDS + q + 4 * (r >> 1));
  wgmma_fence();
  for (u32 step = 0; step < 2; step++) {
    Wgmma<NUMBER, N>::run(d, a[step], wgmma_descriptor(shared + step * (N * 32), 128, 256));
    wgmma_commit();
  }
  wgmma_wait<0>();
  float* y = static_cast<float*>(args.y);
  for (u32 r = 0; r < N / 2; r++) store_global4(y + (warp * 16 + g + (r >> 1 & 1) * 8) * N + r / 4 * 8 + 2 * q + (r & 1), bits(d[r]));
}
