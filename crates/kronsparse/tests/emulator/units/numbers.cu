// Everything that works on registers: roundings, byte permutations, shuffles. One warp, 32 numbers at a time; eight words out.
#include "args.cuh"
KS_KERNEL(32) kronsparse(KS_PARAMETER ks::Args args) {
  using namespace ks;
  for (i64 at = thread_index(); at < args.n; at += 32) {
    const u32 w = load_global4(static_cast<const u32*>(args.x) + at);
    const float x = float_of(w), other = float_of(shuffle_xor(w, 1));
    u32* y = static_cast<u32*>(args.y) + at * 8;
    store_global16(y, {{pack_f16(x, other), pack_bf16(x, other), round_tf32(x), permute_bytes(w, bits(other), 0x5410)}});
    store_global8(y + 4, {{permute_bytes(w, bits(other), 0x7632), permute_bytes(w, bits(other), 0x90B3)}});
    const u32 wide = bits(widen_f16(static_cast<u16>(w)));
    store_global2(y + 6, static_cast<u16>(wide >> 16));
    store_global2(reinterpret_cast<u16*>(y + 6) + 1, static_cast<u16>(round_f16(widen_bf16(round_bf16(x)))));
    store_global4(y + 7, shuffle_xor(w, 31));
  }
}
