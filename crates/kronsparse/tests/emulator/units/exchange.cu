// Two blocks: in every round each thread sends 16 bytes, warp 0's to block 0 and warp 1's to block 1, and all say when they have read.
#include "args.cuh"
KS_KERNEL(64) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  constexpr u32 COMING = 1024;
  u8* shared = shared_memory();
  u64 *full = reinterpret_cast<u64*>(shared + 1024), *empty = full + 1;
  const u32 t = thread_index(), lane = t % 32, warp = uniform(t / 32), rank = cluster_rank();
  const u8* x = static_cast<const u8*>(args.x) + block_index() * args.n * 1024 + t * 16;
  u8* y = static_cast<u8*>(args.y) + block_index() * args.n * 1024 + t * 16;
  if (t == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 4);
    barrier_init_fence();
    barrier_expect(full, COMING);
  }
  sync_cluster();
  for (i64 k = 0; k < args.n; k++) {
    barrier_wait(empty, (k & 1) ^ 1);
    store_async16_at(shared + (rank * 32 + lane) * 16, load_global16(x + k * 1024), full, warp);
    barrier_wait(full, k & 1);
    store_global16(y + k * 1024, load_shared16(shared + (t ^ 33) * 16));
    if (t == 0 && k + 1 < args.n) barrier_expect(full, COMING);
    sync_warp();
    if (lane < 2) barrier_arrive_at(empty, lane);
  }
  sync_cluster();
}
