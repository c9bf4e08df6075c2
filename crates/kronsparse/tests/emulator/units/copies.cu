// cp.async: a ring of three stages; each thread copies 16 bytes and reads those of another warp. Beyond n there are zeros.
#include "args.cuh"
KS_KERNEL(64) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  const u32 t = thread_index();
  const u8* x = static_cast<const u8*>(args.x);
  u8* y = static_cast<u8*>(args.y);
  u8* shared = shared_memory();
  const i64 chunks = (args.n + 63) / 64;
  auto load = [&](i64 chunk) {
    const i64 unit = chunk * 64 + t;
    if (chunk < chunks) copy_async<16>(shared + (chunk % 3) * 1024 + t * 16, x + (unit < args.n ? unit : 0) * 16, unit < args.n);
    copy_commit();
  };
  load(0);
  load(1);
  for (i64 chunk = 0; chunk < chunks; chunk++) {
    copy_wait<1>();
    sync_block();
    load(chunk + 2);
    const U4 unit = load_shared16(shared + (chunk % 3) * 1024 + (t ^ 32) * 16);
    store_global16(y + (chunk * 64 + t) * 16, unit);
  }
}
