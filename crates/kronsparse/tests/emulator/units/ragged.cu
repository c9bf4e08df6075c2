// Pieces of X that are aligned to 2 bytes only: LINES rows of n halves, of which PIECES of BYTES are copied; beyond a row's end there are zeros.
#include "args.cuh"
#include "pieces.cuh"
template <int BYTES, int GROUP, int LINES, int PIECES> KS_DEVICE void copy(const ks::Args& args, u8*& y) {
  using namespace ks;
  const int thread = static_cast<int>(thread_index()), row = static_cast<int>(args.n) * 2;
  copy_pieces<BYTES, 2, GROUP, 32, LINES, PIECES, true>(shared_memory(), static_cast<const u8*>(args.x), thread, [&](int line, int piece, int more) {
    const int byte = piece * BYTES;
    return Piece{(line + more) * (BYTES * PIECES) + byte, (line + more) * row + byte, row - byte};
  });
  sync_block();
  for (int at = thread * 2; at < LINES * PIECES * BYTES; at += 64) store_global2(y + at, load_shared2(shared_memory() + at));
  sync_block();
  y += LINES * PIECES * BYTES;
}
KS_KERNEL(32) kronsparse(KS_PARAMETER ks::Args args) {
  u8* y = static_cast<u8*>(args.y);
  copy<16, 2, 37, 3>(args, y);
  copy<16, 4, 3, 40>(args, y);
  copy<8, 4, 9, 5>(args, y);
  copy<4, 2, 20, 33>(args, y);
  copy<2, 2, 50, 7>(args, y);
}
