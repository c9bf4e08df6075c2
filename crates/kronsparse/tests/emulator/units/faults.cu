// Mistakes with memory, one per launch, chosen by n; n = 0 makes none.
#include "args.cuh"
KS_KERNEL(64) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  const u32 t = thread_index();
  u8* shared = shared_memory();
  const u8* x = static_cast<const u8*>(args.x);
  u8* y = static_cast<u8*>(args.y);
  const i64 n = args.n;
  store_shared16(shared + t * 16, load_global16(x + t * 16));
  if (n == 1 && t == 9) load_global16(x + 1024);
  if (n == 2 && t == 9) load_global4(x - 4);
  if (n == 3 && t == 9) load_global4(x + 2);
  if (n == 4 && t == 9) load_shared16(shared + 1024);
  if (n == 5 && t == 9) load_shared16(shared + t * 16 + 8);
  if (n == 6 && t == 9) store_global4(const_cast<u8*>(x), 0);
  if (n == 7 && t == 9) load_global4(y);
  if (n == 8 && t == 9) store_global4(y + 1024, 0);
  if (n == 9 && t == 9) store_global4(y + 4, 0);
  if (n == 10 && t == 9) y[-1] = 1;
  if (n == 11 && t == 9) y[1 << 20] = 1;
  if (n == 12 && t == 9) load_global4(args.w);
  if (n == 13 && t == 9) copy_async<16>(shared + 144, x + 1020, true);
  if (n == 14 && t == 9) shuffle_xor(t, 1);
  if (n == 15 && t < 32) sync_some(3, 64);
  if (n == 16 && t < 32) sync_warp();
  if (n == 16 && t == 40) sync_warp();
  if (n == 17 && t == 9) for (volatile u32 k = 0;; k = k + 1) {}
  if (n == 18 && t == 9) store_shared4(shared - 4, 0);
  sync_block();
  store_global16(y + t * 16, load_shared16(shared + (63 - t) * 16));
}
