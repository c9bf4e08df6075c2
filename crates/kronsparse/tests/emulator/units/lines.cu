// wgmma, A and B from shared memory: 64 × N sums of eight steps. A comes in two boxes of swizzled lines, four steps to a line.
#include "args.cuh"
#include "types.cuh"
KS_KERNEL(128) kronsparse(KS_PARAMETER ks::Args args, KS_PARAMETER ks::TensorMap x) {
  using namespace ks;
  constexpr u32 N = 24, STEPS = 8, BOX = 64 * 128, B_BYTES = STEPS * N * 32;
  u8 *shared = shared_memory(), *b = shared + 2 * BOX;
  u64* full = reinterpret_cast<u64*>(b + B_BYTES);
  const u32 t = thread_index(), lane = t % 32, warp = t / 32, g = lane / 4, q = lane % 4;
  if (t == 0) {
    barrier_init(full, 1);
    barrier_init_fence();
  }
  sync_block();
  for (int k = 0; k < args.n; k++) {
    if (t == 0) {
      barrier_expect(full, 2 * BOX + B_BYTES);
      for (int box = 0; box < 2; box++) tensor_load(shared + box * BOX, &x, full, box * 64, k * 64, 0, 0);
      bulk_load(b, args.w, B_BYTES, full);
      tensor_prefetch_box(&x, 0, k * 64 + 64, 0, 0);
    }
    barrier_wait(full, k & 1);
    float d[N / 2];
    for (float& sum : d) sum = float_of(~0u);
    wgmma_fence();
    for (u32 step = 0; step < STEPS; step++) {
      const u8* a = shared + step / 4 * BOX + step % 4 * 32;
      WgmmaShared<NUMBER, N>::run(d, wgmma_descriptor_lines(a), wgmma_descriptor(b + step * (N * 32), 128, 256), step != 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    float* y = static_cast<float*>(args.y) + k * 64 * N;
    for (u32 r = 0; r < N / 2; r++) store_global4(y + (warp * 16 + g + (r >> 1 & 1) * 8) * N + r / 4 * 8 + 2 * q + (r & 1), bits(d[r]));
    sync_block();
  }
}
