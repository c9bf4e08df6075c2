// Writes the addresses of the matrices of a two-dimensional batch of products, for a library call that takes arrays of pointers.
#pragma once
#include "ptx.cuh"

namespace ks {

// Matrix (i, j) of an array begins `i · outer + j · inner` bytes after `base`.
struct Lattice {
  u64 base, outer, inner;
};
// The table is three arrays of `batches[0] · batches[1]` pointers: A, B, C.
struct PointerArgs {
  Lattice a, b, c;
  u64 table;
  u32 batches[2];
};

template <int THREADS> KS_DEVICE void batch_pointers(const PointerArgs& args) {
  const u32 count = args.batches[0] * args.batches[1];
  const u32 at = block_index() * THREADS + thread_index();
  if (at >= count) return;
  const u64 i = at / args.batches[1], j = at % args.batches[1];
  const Lattice all[3] = {args.a, args.b, args.c};
  KS_UNROLL for (u32 which = 0; which < 3; ++which) {
    const u64 address = all[which].base + i * all[which].outer + j * all[which].inner;
    store_global8(reinterpret_cast<void*>(args.table + (static_cast<u64>(which) * count + at) * 8), U2{{static_cast<u32>(address), static_cast<u32>(address >> 32)}});
  }
}

}  // namespace ks
