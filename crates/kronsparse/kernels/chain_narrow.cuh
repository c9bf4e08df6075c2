// A whole chain for few vectors in one launch: the blocks of `narrow` for the factor that is applied first, after them those for the
// next one, and so on. A block asks for its weights, waits until all blocks of the factor before have written the hidden vectors,
// which stay in the second-level cache, and multiplies. Blocks wait only for blocks with smaller numbers, which a GPU starts first:
// so somebody can always go on, however few blocks fit on it.
#pragma once
#include "narrow.cuh"

namespace ks {

template <int A_, int B_, int C_, int D_, int VECTORS_, int LANES_, int OUTPUTS_, int DEPTH_, int THREAD_LANES_, int THREAD_OUTPUTS_, int SPLIT_, int SHARED_>
struct NarrowFactor {
  static constexpr i64 ROWS = i64(A_) * B_ * D_;
  template <class Element, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, int ALIGN>
  using Kernel = Narrow<Element, LAYOUT, KIND, BIAS, JOIN, A_, B_, C_, D_, VECTORS_, LANES_, OUTPUTS_, DEPTH_, THREAD_LANES_, THREAD_OUTPUTS_, SPLIT_, ALIGN, SHARED_>;
};

// Scratch memory: a counter for each factor but the last one, then the vectors that it passes on. Both on lines of their own.
constexpr i64 SCRATCH_LINE = 128;

template <class Element, Layout LAYOUT, Activation KIND, bool BIAS, Join JOIN, int ALIGN, class... Factors> struct ChainNarrow {
  static constexpr int E = NarrowNumber<Element>::BYTES, COUNT = sizeof...(Factors);
  // Blocks of a factor; beyond it they take several items each.
  static constexpr i64 MOST_BLOCKS = 1 << 24;

  const Args& args;
  u8* const scratch;

  template <class Kernel> KS_DEVICE i64 blocks() const { return Kernel::items(args.n) < MOST_BLOCKS ? Kernel::items(args.n) : MOST_BLOCKS; }
  // Blocks that have written what factor K passes on, and after them the blocks that have read this; 0 after the last one.
  KS_DEVICE u32* counter(int k) const { return reinterpret_cast<u32*>(scratch + k * SCRATCH_LINE); }

  // Factor K and those after it: `first` is its first block, `before` are those of the factor before.
  template <int K, class Factor, class... After> KS_DEVICE void run(const void* x, const u8* weights, u8* passed, i64 first, i64 before) {
    constexpr bool END = sizeof...(After) == 0;
    using Kernel = typename Factor::template Kernel<Element, LAYOUT, END ? KIND : Activation::None, END && BIAS, END ? JOIN : Join::None, K == 0 ? ALIGN : 16>;
    const i64 mine = blocks<Kernel>(), block = static_cast<i64>(block_index()) - first;
    if (block < mine) {
      const Args own{x, weights, args.bias, END ? args.y : passed, args.n, args.residual};
      Kernel kernel(own);
      bool waited = false;
      kernel.run(block, mine, [&] {
        if (waited) return;
        waited = true;
        wait_for_previous();
        if constexpr (K > 0) {
          if (thread_index() == 0) {
            wait_for_count(counter(K - 1), static_cast<u32>(before));
            count_up(counter(K - 1), static_cast<u32>(before + mine) - 1);
          }
          sync_block();
        }
      });
      // All threads have stored: the kernel's last step is to meet.
      if constexpr (!END) {
        if (thread_index() == 0) count_up(counter(K), static_cast<u32>(mine + blocks<typename First<After...>::Kernel>()) - 1);
      }
    } else if constexpr (!END) {
      const i64 bytes = (args.n * Factor::ROWS * E + SCRATCH_LINE - 1) / SCRATCH_LINE * SCRATCH_LINE;
      run<K + 1, After...>(passed, weights + Kernel::TILES * Kernel::TILE_BYTES, passed + bytes, first + mine, mine);
    }
  }

  // For the number of blocks, which neither activation nor bias changes.
  template <class Factor, class...> struct First {
    using Kernel = typename Factor::template Kernel<Element, LAYOUT, Activation::None, false, Join::None, 16>;
  };

  KS_DEVICE void run() { run<0, Factors...>(args.x, static_cast<const u8*>(args.w), scratch + (COUNT - 1) * SCRATCH_LINE, 0, 0); }
};

template <class Chain> KS_DEVICE void chain_narrow(const Args& args, u8* scratch) {
  Chain{args, scratch}.run();
}

}  // namespace ks
