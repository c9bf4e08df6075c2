// Two blocks: each brings half of the bytes to both, both tell each other when they are done, twice.
#include "args.cuh"
KS_KERNEL(64) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  u8* shared = shared_memory();
  u64 *full = reinterpret_cast<u64*>(shared + 1024), *empty = full + 1;
  const u32 t = thread_index(), rank = cluster_rank();
  if (t == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 2);
    barrier_init_fence();
  }
  sync_cluster();
  for (i64 k = 0; k < args.n; k++) {
    if (t == 32) {
      barrier_wait(empty, (k & 1) ^ 1);
      barrier_expect(full, 1024);
      const u8* x = static_cast<const u8*>(args.x) + ((block_index() / 2) * args.n + k) * 1024;
      bulk_load_multicast(shared + rank * 512, x + rank * 512, 512, full, 3);
    }
    if (t < 32) {
      barrier_wait(full, k & 1);
      for (u32 unit = t; unit < 64; unit += 32)
        store_global16(static_cast<u8*>(args.y) + (block_index() * args.n + k) * 1024 + unit * 16, load_shared16(shared + unit * 16));
      sync_warp();
      if (t < 2) barrier_arrive_at(empty, t);
    }
  }
  sync_cluster();
}
