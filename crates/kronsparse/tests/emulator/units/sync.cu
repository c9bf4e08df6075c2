// Barriers of a block: 128 threads hand numbers round through shared memory, warp by warp and then all.
#include "args.cuh"
KS_KERNEL(128) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  const u32 t = thread_index(), half = t / 64;
  u32* shared = reinterpret_cast<u32*>(shared_memory());
  const u32* x = static_cast<const u32*>(args.x) + block_index() * 128;
  u32* y = static_cast<u32*>(args.y) + block_index() * 128;
  store_shared4(shared + t, load_global4(x + t));
  sync_warp();
  const u32 neighbour = load_shared4(shared + (t ^ 5));
  sync_warp();
  store_shared4(shared + t, neighbour + 1);
  sync_some(1 + half, 64);
  const u32 warp = load_shared4(shared + (t ^ 32));
  sync_some(1 + half, 64);
  store_shared4(shared + t, warp + 2);
  sync_block();
  const u32 mine = load_shared4(shared + (t ^ 64));
  if (t < 128) store_global4(y + t, mine);
}
