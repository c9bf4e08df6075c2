// Takes the place of the instructions in ptx.cuh where `KS_EMULATED` is defined: the same names, run on the host, thread by thread,
// with every rule checked that a GPU does not check. Kernels include only this; what is behind it stands in machine.h.
#pragma once

#include <cmath>
#include <cstddef>

#define KS_DEVICE inline
#define KS_UNROLL
#define KS_UNROLL_BY(TIMES)
// Generated sources are put into one namespace each, so all may call their kernel `kronsparse`.
#define KS_KERNEL(THREADS) KS_KERNEL_BLOCKS(THREADS, 1)
#define KS_KERNEL_BLOCKS(THREADS, BLOCKS) constexpr u32 launch_threads = (THREADS), launch_blocks = (BLOCKS); static void
#define KS_PARAMETER const

using std::fma;
using std::fmax;
using std::fmin;
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

namespace ks {

struct alignas(16) U4 { u32 v[4]; };
struct alignas(8) U2 { u32 v[2]; };
// Element types, defined in types.cuh.
struct F16;
struct BF16;
struct TF32;
// Here the bytes are an `emulated::TensorBox`.
struct alignas(64) TensorMap { u64 opaque[16]; };

namespace emulated {

enum class Number { F16, BF16, TF32 };

u32 thread_index();
u32 block_index();
u32 grid_size();
u32 cluster_rank();
u8* shared_memory();
u32 shared_address(const void* p);

void sync_block();
void sync_warp();
void sync_some(u32 id, u32 threads);
void sync_cluster();
void wait_for_previous();

void load_shared(const void* from, void* to, u32 bytes);
void store_shared(void* to, const void* from, u32 bytes);
void load_global(const void* from, void* to, u32 bytes);
void store_global(void* to, const void* from, u32 bytes);

u32 shuffle_xor(u32 w, u32 mask);
u32 uniform(u32 w);
u32 half_of(float x);
u32 brain_of(float x);
float half_to(u16 x);

void copy_async(void* to, const void* from, u32 bytes, bool valid);
void copy_commit();
void copy_wait(u32 pending);

void mma(Number number, float* d, const u32* a, u32 b0, u32 b1);

void barrier_init(u64* b, u32 count);
void barrier_init_fence();
void barrier_arrive(u64* b, u32 rank, bool remote, u32 bytes);
void barrier_wait(u64* b, u32 parity);
void store_async_at(void* to, const U4& w, u64* b, u32 rank);

constexpr u32 ALONE = ~0u;  // not a multicast
void bulk_load(void* to, const void* from, u32 bytes, u64* b, u32 mask);
void tensor_prefetch(const TensorMap* m);
void tensor_prefetch_box(const TensorMap* m);
void tensor_load(void* to, const TensorMap* m, u64* b, const int (&at)[4], u32 mask);
void tensor_store(const TensorMap* m, const void* from, const int (&at)[4]);
void bulk_commit();
void bulk_wait_read(u32 pending);
void fence_async();

void wgmma_fence();
void wgmma_commit();
void wgmma_wait(u32 pending);
void wgmma(Number number, u32 n, float* d, const u32* a, u64 descriptor_b);
void wgmma_shared(Number number, u32 n, float* d, u64 descriptor_a, u64 descriptor_b, bool add);
void registers_change(u32 count, bool increase);

template <class T> struct NumberOf;
template <> struct NumberOf<F16> { static constexpr Number value = Number::F16; };
template <> struct NumberOf<BF16> { static constexpr Number value = Number::BF16; };
template <> struct NumberOf<TF32> { static constexpr Number value = Number::TF32; };

template <class T> T loaded_shared(const void* p) { T r; load_shared(p, &r, sizeof(T)); return r; }
template <class T> T loaded_global(const void* p) { T r; load_global(p, &r, sizeof(T)); return r; }

}  // namespace emulated

KS_DEVICE u32 thread_index() { return emulated::thread_index(); }
KS_DEVICE u32 block_index() { return emulated::block_index(); }
KS_DEVICE u32 grid_size() { return emulated::grid_size(); }
KS_DEVICE u32 cluster_rank() { return emulated::cluster_rank(); }

KS_DEVICE u8* shared_memory() { return emulated::shared_memory(); }
KS_DEVICE u32 shared_address(const void* p) { return emulated::shared_address(p); }

KS_DEVICE void sync_block() { emulated::sync_block(); }
KS_DEVICE void sync_warp() { emulated::sync_warp(); }
KS_DEVICE void sync_some(u32 id, u32 threads) { emulated::sync_some(id, threads); }
KS_DEVICE void sync_cluster() { emulated::sync_cluster(); }
KS_DEVICE void let_next_begin() {}
KS_DEVICE void wait_for_previous() { emulated::wait_for_previous(); }

KS_DEVICE U4 load_shared16(const void* p) { return emulated::loaded_shared<U4>(p); }
KS_DEVICE U2 load_shared8(const void* p) { return emulated::loaded_shared<U2>(p); }
KS_DEVICE u32 load_shared4(const void* p) { return emulated::loaded_shared<u32>(p); }
KS_DEVICE u16 load_shared2(const void* p) { return emulated::loaded_shared<u16>(p); }
KS_DEVICE void store_shared16(void* p, U4 w) { emulated::store_shared(p, &w, 16); }
KS_DEVICE void store_shared8(void* p, U2 w) { emulated::store_shared(p, &w, 8); }
KS_DEVICE void store_shared4(void* p, u32 w) { emulated::store_shared(p, &w, 4); }
KS_DEVICE void store_shared2(void* p, u16 w) { emulated::store_shared(p, &w, 2); }
KS_DEVICE U4 load_constant16(const void* p) { return emulated::loaded_global<U4>(p); }
KS_DEVICE U2 load_constant8(const void* p) { return emulated::loaded_global<U2>(p); }
KS_DEVICE u32 load_constant4(const void* p) { return emulated::loaded_global<u32>(p); }
KS_DEVICE u16 load_constant2(const void* p) { return emulated::loaded_global<u16>(p); }
KS_DEVICE U4 load_global16(const void* p) { return emulated::loaded_global<U4>(p); }
KS_DEVICE U2 load_global8(const void* p) { return emulated::loaded_global<U2>(p); }
KS_DEVICE u32 load_global4(const void* p) { return emulated::loaded_global<u32>(p); }
KS_DEVICE u16 load_global2(const void* p) { return emulated::loaded_global<u16>(p); }
KS_DEVICE void store_global16(void* p, U4 w) { emulated::store_global(p, &w, 16); }
KS_DEVICE void store_global8(void* p, U2 w) { emulated::store_global(p, &w, 8); }
KS_DEVICE void store_global4(void* p, u32 w) { emulated::store_global(p, &w, 4); }
KS_DEVICE void store_global2(void* p, u16 w) { emulated::store_global(p, &w, 2); }

KS_DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) {
  const u64 both = static_cast<u64>(b) << 32 | a;
  u32 r = 0;
  for (int at = 0; at < 4; at++) {
    const u32 digit = selector >> (4 * at) & 0xF;
    const u32 byte = static_cast<u32>(both >> (8 * (digit & 7))) & 0xFF;
    // The digit's top bit asks for the sign of the byte, eight times.
    r |= (digit & 8 ? (byte & 0x80 ? 0xFFu : 0u) : byte) << (8 * at);
  }
  return r;
}
KS_DEVICE u32 shuffle_xor(u32 w, u32 mask) { return emulated::shuffle_xor(w, mask); }
KS_DEVICE u32 uniform(u32 w) { return emulated::uniform(w); }
KS_DEVICE u32 bits(float x) { u32 r; __builtin_memcpy(&r, &x, 4); return r; }
KS_DEVICE float float_of(u32 w) { float r; __builtin_memcpy(&r, &w, 4); return r; }

KS_DEVICE u32 pack_f16(float low, float high) { return emulated::half_of(low) | emulated::half_of(high) << 16; }
KS_DEVICE u32 pack_bf16(float low, float high) { return emulated::brain_of(low) | emulated::brain_of(high) << 16; }
KS_DEVICE u16 round_f16(float x) { return static_cast<u16>(emulated::half_of(x)); }
KS_DEVICE u16 round_bf16(float x) { return static_cast<u16>(emulated::brain_of(x)); }
KS_DEVICE float widen_f16(u16 x) { return emulated::half_to(x); }
KS_DEVICE float widen_bf16(u16 x) { return float_of(static_cast<u32>(x) << 16); }
KS_DEVICE u32 round_tf32(float x) {
  const u32 w = bits(x);
  if ((w & 0x7F800000) == 0x7F800000) return x == x ? w : 0x7FFFE000u;
  return (w + 0x1000) & ~0x1FFFu;  // half of the last kept bit, away from zero since the sign stands apart
}
KS_DEVICE float exp_f32(float x) { return std::exp(x); }
KS_DEVICE float tanh_f32(float x) { return std::tanh(x); }
KS_DEVICE float erf_f32(float x) { return std::erf(x); }
KS_DEVICE float erfc_f32(float x) { return std::erfc(x); }
KS_DEVICE double double_of(U2 w) { double r; __builtin_memcpy(&r, &w, 8); return r; }
KS_DEVICE U2 words_of(double x) { U2 r; __builtin_memcpy(&r, &x, 8); return r; }
KS_DEVICE double exp_f64(double x) { return std::exp(x); }
KS_DEVICE double erfc_f64(double x) { return std::erfc(x); }

template <int BYTES> KS_DEVICE void copy_async(void* to, const void* from, bool valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  emulated::copy_async(to, from, BYTES, valid);
}
KS_DEVICE void copy_commit() { emulated::copy_commit(); }
template <int PENDING> KS_DEVICE void copy_wait() { emulated::copy_wait(PENDING); }

KS_DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulated::mma(emulated::Number::F16, d, a, b0, b1); }
KS_DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulated::mma(emulated::Number::BF16, d, a, b0, b1); }
KS_DEVICE void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulated::mma(emulated::Number::TF32, d, a, b0, b1); }

KS_DEVICE void barrier_init(u64* b, u32 count) { emulated::barrier_init(b, count); }
KS_DEVICE void barrier_init_fence() { emulated::barrier_init_fence(); }
KS_DEVICE void barrier_arrive(u64* b) { emulated::barrier_arrive(b, 0, false, 0); }
KS_DEVICE void barrier_expect(u64* b, u32 bytes) { emulated::barrier_arrive(b, 0, false, bytes); }
KS_DEVICE void barrier_arrive_at(u64* b, u32 rank) { emulated::barrier_arrive(b, rank, true, 0); }
KS_DEVICE void barrier_wait(u64* b, u32 parity) { emulated::barrier_wait(b, parity); }

KS_DEVICE void store_async16_at(void* to, U4 w, u64* b, u32 rank) { emulated::store_async_at(to, w, b, rank); }

KS_DEVICE void bulk_load(void* to, const void* from, u32 bytes, u64* b) { emulated::bulk_load(to, from, bytes, b, emulated::ALONE); }
KS_DEVICE void bulk_load_multicast(void* to, const void* from, u32 bytes, u64* b, u16 mask) { emulated::bulk_load(to, from, bytes, b, mask); }
KS_DEVICE void tensor_prefetch(const TensorMap* m) { emulated::tensor_prefetch(m); }
KS_DEVICE void tensor_prefetch_box(const TensorMap* m, int, int, int, int) { emulated::tensor_prefetch_box(m); }
KS_DEVICE void tensor_load(void* to, const TensorMap* m, u64* b, int x, int y, int z, int w) {
  emulated::tensor_load(to, m, b, {x, y, z, w}, emulated::ALONE);
}
KS_DEVICE void tensor_load_multicast(void* to, const TensorMap* m, u64* b, int x, int y, int z, int w, u16 mask) {
  emulated::tensor_load(to, m, b, {x, y, z, w}, mask);
}
KS_DEVICE void tensor_store(const TensorMap* m, const void* from, int x, int y, int z, int w) {
  emulated::tensor_store(m, from, {x, y, z, w});
}
KS_DEVICE void bulk_commit() { emulated::bulk_commit(); }
template <int PENDING> KS_DEVICE void bulk_wait_read() { emulated::bulk_wait_read(PENDING); }
KS_DEVICE void fence_async() { emulated::fence_async(); }

KS_DEVICE void wgmma_fence() { emulated::wgmma_fence(); }
KS_DEVICE void wgmma_commit() { emulated::wgmma_commit(); }
template <int PENDING> KS_DEVICE void wgmma_wait() { emulated::wgmma_wait(PENDING); }
KS_DEVICE u64 wgmma_descriptor(const void* p, u32 along_k, u32 along_n) {
  return static_cast<u64>((shared_address(p) & 0x3FFFF) >> 4) | static_cast<u64>(along_k >> 4) << 16 | static_cast<u64>(along_n >> 4) << 32;
}
KS_DEVICE u64 wgmma_descriptor_lines(const void* p) {
  return static_cast<u64>((shared_address(p) & 0x3FFFF) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
template <class T, int N> struct Wgmma {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "wgmma has N = 8, 16, … 256");
  static KS_DEVICE void run(float (&d)[N / 2], const u32 (&a)[4], u64 descriptor_b) {
    emulated::wgmma(emulated::NumberOf<T>::value, N, d, a, descriptor_b);
  }
};
template <class T, int N> struct WgmmaShared {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "wgmma has N = 8, 16, … 256");
  static_assert(emulated::NumberOf<T>::value != emulated::Number::TF32, "A from shared memory is for the 16-bit types");
  static KS_DEVICE void run(float (&d)[N / 2], u64 descriptor_a, u64 descriptor_b, bool add) {
    emulated::wgmma_shared(emulated::NumberOf<T>::value, N, d, descriptor_a, descriptor_b, add);
  }
};
template <int COUNT> KS_DEVICE void registers_decrease() { emulated::registers_change(COUNT, false); }
template <int COUNT> KS_DEVICE void registers_increase() { emulated::registers_change(COUNT, true); }

}  // namespace ks
