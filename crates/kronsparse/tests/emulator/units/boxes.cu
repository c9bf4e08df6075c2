// TMA: a box with the swizzle BYTES is loaded, each 16-byte unit doubled in place, and the box stored at another place.
#include "args.cuh"
KS_KERNEL(64) kronsparse(KS_PARAMETER ks::Args args, KS_PARAMETER ks::TensorMap x, KS_PARAMETER ks::TensorMap y) {
  using namespace ks;
  u8* shared = shared_memory();
  u64* full = reinterpret_cast<u64*>(shared + 2048);
  const u32 t = thread_index(), at = static_cast<u32>(args.n) * t;
  if (t == 0) {
    tensor_prefetch(&x);
    barrier_init(full, 1);
    barrier_init_fence();
    barrier_expect(full, BYTES * 16);
    tensor_load(shared, &x, full, 4, -1, 1, 2);
  }
  sync_block();
  barrier_wait(full, 0);
  // Row t of 16, of BYTES bytes: its units in order, exchanged as the swizzle says.
  if (t < 16) {
    for (u32 unit = 0; unit < BYTES / 16; unit++) {
      const u32 address = t * BYTES + unit * 16;
      const u32 swizzled = address ^ (address >> 3 & (BYTES - 16));
      U4 v = load_shared16(shared + swizzled);
      for (u32& word : v.v) word = bits(float_of(word) * 2 + static_cast<float>(unit));
      store_shared16(shared + swizzled, v);
    }
  }
  fence_async();
  sync_block();
  if (t == 0) {
    tensor_store(&y, shared, 4, 0, 1, 1);
    bulk_commit();
    bulk_wait_read<0>();
  }
  (void)at;
}
