// Every hardware instruction that the kernels use, one small wrapper each. Nothing else in this folder contains assembly, so
// that the same kernels also run on the host: there `KS_EMULATED` is defined and emulator/emulator.h takes this file's place.
// Shared memory is addressed by ordinary pointers; the wrappers convert them. No CUDA header is included.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

#ifdef KS_EMULATED
#include "emulator.h"
#else

#define KS_DEVICE __device__ __forceinline__
#define KS_UNROLL _Pragma("unroll")
#define KS_PRAGMA(TEXT) _Pragma(#TEXT)
#define KS_UNROLL_BY(TIMES) KS_PRAGMA(unroll TIMES)
// The entry point of a generated source. `THREADS` per block; a multiprocessor can hold one block at least, or `BLOCKS`.
#define KS_KERNEL(THREADS) KS_KERNEL_BLOCKS(THREADS, 1)
#define KS_KERNEL_BLOCKS(THREADS, BLOCKS) extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
#define KS_PARAMETER const __grid_constant__

namespace ks {

struct alignas(16) U4 { u32 v[4]; };
struct alignas(8) U2 { u32 v[2]; };
// A CUtensorMap, made by the host.
struct alignas(64) TensorMap { u64 opaque[16]; };

// Where am I. All grids and blocks are one-dimensional.
KS_DEVICE u32 thread_index() { return threadIdx.x; }
KS_DEVICE u32 block_index() { return blockIdx.x; }
KS_DEVICE u32 grid_size() { return gridDim.x; }
KS_DEVICE u32 cluster_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }

// Dynamic shared memory, 1024-byte aligned by the host's choice of offset 0.
KS_DEVICE u8* shared_memory() { extern __shared__ __align__(1024) u8 dynamic_shared[]; return dynamic_shared; }
KS_DEVICE u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// Barriers among threads.
KS_DEVICE void sync_block() { __syncthreads(); }
KS_DEVICE void sync_warp() { __syncwarp(); }
// Among `threads` threads (whole warps) of a block that name the same `id` (1…15).
KS_DEVICE void sync_some(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
KS_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Kernels of one stream may overlap at their ends (programmatic dependent launch, compute capability 9.0 and later): the next one is let
// begin, and one that began early waits until all before it have ended, before it touches anything that they write or read.
KS_DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
KS_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Words from and to shared memory, from and to global memory. Pointers are aligned to the size.
KS_DEVICE U4 load_shared16(const void* p) {
  U4 r;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "r"(shared_address(p)) : "memory");
  return r;
}
KS_DEVICE U2 load_shared8(const void* p) {
  U2 r;
  asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(r.v[0]), "=r"(r.v[1]) : "r"(shared_address(p)) : "memory");
  return r;
}
KS_DEVICE u32 load_shared4(const void* p) { u32 r; asm volatile("ld.shared.b32 %0, [%1];" : "=r"(r) : "r"(shared_address(p)) : "memory"); return r; }
KS_DEVICE u16 load_shared2(const void* p) { u16 r; asm volatile("ld.shared.b16 %0, [%1];" : "=h"(r) : "r"(shared_address(p)) : "memory"); return r; }
KS_DEVICE void store_shared16(void* p, U4 w) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(p)), "r"(w.v[0]), "r"(w.v[1]), "r"(w.v[2]), "r"(w.v[3]) : "memory");
}
KS_DEVICE void store_shared8(void* p, U2 w) { asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(shared_address(p)), "r"(w.v[0]), "r"(w.v[1]) : "memory"); }
KS_DEVICE void store_shared4(void* p, u32 w) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(shared_address(p)), "r"(w) : "memory"); }
KS_DEVICE void store_shared2(void* p, u16 w) { asm volatile("st.shared.b16 [%0], %1;" ::"r"(shared_address(p)), "h"(w) : "memory"); }
// Of what no kernel writes that this one may overlap with: weights, bias.
KS_DEVICE U4 load_constant16(const void* p) {
  U4 r;
  asm volatile("ld.global.nc.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p));
  return r;
}
KS_DEVICE U2 load_constant8(const void* p) { U2 r; asm volatile("ld.global.nc.v2.b32 {%0,%1}, [%2];" : "=r"(r.v[0]), "=r"(r.v[1]) : "l"(p)); return r; }
KS_DEVICE u32 load_constant4(const void* p) { u32 r; asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(r) : "l"(p)); return r; }
KS_DEVICE u16 load_constant2(const void* p) { u16 r; asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(r) : "l"(p)); return r; }
// Of anything: while a kernel waits, those before it may still write what it will read.
KS_DEVICE U4 load_global16(const void* p) {
  U4 r;
  asm volatile("ld.global.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p));
  return r;
}
KS_DEVICE U2 load_global8(const void* p) { U2 r; asm volatile("ld.global.v2.b32 {%0,%1}, [%2];" : "=r"(r.v[0]), "=r"(r.v[1]) : "l"(p)); return r; }
KS_DEVICE u32 load_global4(const void* p) { u32 r; asm volatile("ld.global.b32 %0, [%1];" : "=r"(r) : "l"(p)); return r; }
KS_DEVICE u16 load_global2(const void* p) { u16 r; asm volatile("ld.global.b16 %0, [%1];" : "=h"(r) : "l"(p)); return r; }
KS_DEVICE void store_global16(void* p, U4 w) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(w.v[0]), "r"(w.v[1]), "r"(w.v[2]), "r"(w.v[3]) : "memory");
}
KS_DEVICE void store_global8(void* p, U2 w) { asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(p), "r"(w.v[0]), "r"(w.v[1]) : "memory"); }
KS_DEVICE void store_global4(void* p, u32 w) { asm volatile("st.global.b32 [%0], %1;" ::"l"(p), "r"(w) : "memory"); }
KS_DEVICE void store_global2(void* p, u16 w) { asm volatile("st.global.b16 [%0], %1;" ::"l"(p), "h"(w) : "memory"); }

// Bytes of two words by `selector`, one hexadecimal digit per byte of the result, lowest first.
KS_DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) { u32 r; asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector)); return r; }
// The word of the lane whose number differs by `mask`.
KS_DEVICE u32 shuffle_xor(u32 w, u32 mask) { u32 r; asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, -1;" : "=r"(r) : "r"(w), "r"(mask)); return r; }
// A word that is the same in all lanes of a warp, and known to be by the compiler.
KS_DEVICE u32 uniform(u32 w) { u32 r; asm volatile("shfl.sync.idx.b32 %0, %1, 0, 31, -1;" : "=r"(r) : "r"(w)); return r; }
KS_DEVICE u32 bits(float x) { return __float_as_uint(x); }
KS_DEVICE float float_of(u32 w) { return __uint_as_float(w); }

// Rounding to nearest, ties to even. Two numbers share a word, `low` in its low half.
KS_DEVICE u32 pack_f16(float low, float high) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r; }
KS_DEVICE u32 pack_bf16(float low, float high) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r; }
KS_DEVICE u16 round_f16(float x) { u16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r; }
KS_DEVICE u16 round_bf16(float x) { u16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r; }
KS_DEVICE float widen_f16(u16 x) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x)); return r; }
KS_DEVICE float widen_bf16(u16 x) { return float_of(static_cast<u32>(x) << 16); }
// f32 -> TF32: 10 bits after the point, nearest, ties away from zero; the low 13 bits of the result are zero.
KS_DEVICE u32 round_tf32(float x) { u32 r; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x)); return r; }
KS_DEVICE float exp_f32(float x) { return expf(x); }
KS_DEVICE float tanh_f32(float x) { return tanhf(x); }
KS_DEVICE float erf_f32(float x) { return erff(x); }
// 1 - erf, without losing the tail.
KS_DEVICE float erfc_f32(float x) { return erfcf(x); }
// Double precision, for the plain kernel only. A double travels as two words, the low one first.
KS_DEVICE double double_of(U2 w) { return __hiloint2double(static_cast<int>(w.v[1]), static_cast<int>(w.v[0])); }
KS_DEVICE U2 words_of(double x) { return {{static_cast<u32>(__double2loint(x)), static_cast<u32>(__double2hiint(x))}}; }
KS_DEVICE double exp_f64(double x) { return exp(x); }
KS_DEVICE double erfc_f64(double x) { return erfc(x); }

// Asynchronous copies from global to shared memory, `BYTES` 4, 8 or 16; zeros instead where not `valid` (nothing is read then).
template <int BYTES> KS_DEVICE void copy_async(void* to, const void* from, bool valid) {
  const u32 size = valid ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(size) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES), "r"(size) : "memory");
}
KS_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> KS_DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// d += a · b by one warp, f32 sums. Fragments as in the PTX manual: m16n8k16 for the 16-bit types, m16n8k8 for TF32.
KS_DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
KS_DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
KS_DEVICE void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if __CUDA_ARCH__ >= 900
// mbarriers: 8 bytes of shared memory. A phase ends when `count` arrivals and all announced bytes have come in.
KS_DEVICE void barrier_init(u64* b, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory"); }
// Makes initialised barriers visible to the copy engine and to the other blocks of the cluster.
KS_DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
KS_DEVICE void barrier_arrive(u64* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
// Arrives and announces `bytes` that asynchronous copies will bring.
KS_DEVICE void barrier_expect(u64* b, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory"); }
// Arrives at the barrier at the same offset in block `rank` of the cluster. No wider scope than the default: a release at
// cluster scope waits for all stores of the block, and an acquire empties the L1 cache; neither is needed, as what the barriers
// guard is read before the arrival and written by the copy engine alone.
KS_DEVICE void barrier_arrive_at(u64* b, u32 rank) {
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(b)), "r"(rank) : "memory");
}
// Waits until the phase of this `parity` has ended (0 for the first one).
KS_DEVICE void barrier_wait(u64* b, u32 parity) {
  asm volatile("{\n.reg .pred done;\nAGAIN_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN_%=;\n}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}

// 16 bytes to the same offset in block `rank` of the cluster, whose barrier there counts them.
KS_DEVICE void store_async16_at(void* to, U4 w, u64* b, u32 rank) {
  asm volatile("{\n.reg .b32 there, barrier;\nmapa.shared::cluster.u32 there, %0, %6;\nmapa.shared::cluster.u32 barrier, %5, %6;\n"
    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], {%1,%2,%3,%4}, [barrier];\n}"
    ::"r"(shared_address(to)), "r"(w.v[0]), "r"(w.v[1]), "r"(w.v[2]), "r"(w.v[3]), "r"(shared_address(b)), "r"(rank) : "memory");
}

// The copy engine. `bytes`, both addresses: multiples of 16. Multicast: to the same offset in every block of `mask`.
KS_DEVICE void bulk_load(void* to, const void* from, u32 bytes, u64* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)) : "memory");
}
KS_DEVICE void bulk_load_multicast(void* to, const void* from, u32 bytes, u64* b, u16 mask) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)), "h"(mask) : "memory");
}
// A box of a tensor whose map has 4 dimensions, innermost coordinate first; outside of the tensor it reads zeros and writes nothing.
KS_DEVICE void tensor_prefetch(const TensorMap* m) { asm volatile("prefetch.tensormap [%0];" ::"l"(m) : "memory"); }
KS_DEVICE void tensor_load(void* to, const TensorMap* m, u64* b, int x, int y, int z, int w) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5,%6}], [%2];" ::"r"(shared_address(to)), "l"(m), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}
// The box to the second-level cache only.
KS_DEVICE void tensor_prefetch_box(const TensorMap* m, int x, int y, int z, int w) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1,%2,%3,%4}];" ::"l"(m), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}
KS_DEVICE void tensor_load_multicast(void* to, const TensorMap* m, u64* b, int x, int y, int z, int w, u16 mask) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3,%4,%5,%6}], [%2], %7;" ::"r"(shared_address(to)), "l"(m), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(w), "h"(mask) : "memory");
}
KS_DEVICE void tensor_store(const TensorMap* m, const void* from, int x, int y, int z, int w) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2,%3,%4,%5}], [%1];" ::"l"(m), "r"(shared_address(from)), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}
KS_DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most `PENDING` of this thread's groups of stores still read from shared memory.
template <int PENDING> KS_DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory"); }
// Orders this thread's ordinary writes to shared memory before later reads by the copy engine or the tensor cores.
KS_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif

#ifdef KS_WGMMA
// wgmma: four warps, A in registers (64 rows), B in shared memory behind a descriptor. `Wgmma<T, N>` is printed by the host.
KS_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
KS_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> KS_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }
// B of `N × 16` halves (`N × 8` TF32) without swizzle: 8 × 16-byte core matrices; `along_k`, `along_n` bytes from one to the next.
KS_DEVICE u64 wgmma_descriptor(const void* p, u32 along_k, u32 along_n) {
  return static_cast<u64>((shared_address(p) & 0x3FFFF) >> 4) | static_cast<u64>(along_k >> 4) << 16 | static_cast<u64>(along_n >> 4) << 32;
}
// A of 64 rows × 16 halves: within lines of 128 bytes, swizzled, eight of them per kilobyte; `p` is the first row's 32 bytes.
KS_DEVICE u64 wgmma_descriptor_lines(const void* p) {
  return static_cast<u64>((shared_address(p) & 0x3FFFF) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
// Gives registers back, or takes them; all warps of a warpgroup.
template <int COUNT> KS_DEVICE void registers_decrease() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> KS_DEVICE void registers_increase() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
#endif

}  // namespace ks
#endif
