// mbarriers and bulk copies: one warp brings 2 KiB at a time into two stages, two warps copy them out, in another order.
#include "args.cuh"
KS_KERNEL(96) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  u8* shared = shared_memory();
  u64 *full = reinterpret_cast<u64*>(shared + 4096), *empty = full + 2;
  const u32 t = thread_index(), lane = t % 32;
  if (t == 0) {
    for (int s = 0; s < 2; s++) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 2);
    }
    barrier_init_fence();
  }
  sync_block();
  if (t >= 64) {
    for (i64 k = 0; k < args.n && lane == 0; k++) {
      barrier_wait(empty + k % 2, (k / 2 & 1) ^ 1);
      barrier_expect(full + k % 2, 2048);
      bulk_load(shared + k % 2 * 2048, static_cast<const u8*>(args.x) + k * 2048, 2048, full + k % 2);
    }
  } else {
    for (i64 k = 0; k < args.n; k++) {
      barrier_wait(full + k % 2, k / 2 & 1);
      for (u32 unit = t; unit < 128; unit += 64)
        store_global16(static_cast<u8*>(args.y) + k * 2048 + unit * 16, load_shared16(shared + k % 2 * 2048 + (unit ^ 33) * 16));
      sync_warp();
      if (lane == 0) barrier_arrive(empty + k % 2);
    }
  }
}
