// What all kernel families share after the sum: layouts and activations by name, the bias, sums in shared memory.
#pragma once
#include "args.cuh"
#include "types.cuh"

namespace ks {

enum class Layout { BatchFirst, BatchLast };
enum class Activation { None, Relu, Gelu, GeluTanh, Silu };
// Last: another array like Y is added; or the outputs come in twos, the activated first of which is multiplied by the second.
enum class Join { None, Residual, Gate };
// Outputs of the chain for one number of Y.
KS_DEVICE constexpr int outputs_of(Join join) { return join == Join::Gate ? 2 : 1; }

// Sums in shared memory.
KS_DEVICE float load_sum(const float* from) { return float_of(load_shared4(from)); }
KS_DEVICE double load_sum(const double* from) { return double_of(load_shared8(from)); }
KS_DEVICE void store_sum(float* to, float value) { store_shared4(to, bits(value)); }
KS_DEVICE void store_sum(double* to, double value) { store_shared8(to, words_of(value)); }

KS_DEVICE float exponential(float x) { return exp_f32(x); }
KS_DEVICE double exponential(double x) { return exp_f64(x); }
KS_DEVICE float error_complement(float x) { return erfc_f32(x); }
KS_DEVICE double error_complement(double x) { return erfc_f64(x); }

// As `Activation::apply` in Rust, in `float` or `double`: NaN stays NaN, minus infinity becomes 0 (not -inf · 0 = NaN).
template <Activation KIND, class S> KS_DEVICE S activate(S x) {
  if constexpr (KIND == Activation::None) {
    return x;
  } else if constexpr (KIND == Activation::Relu) {
    return x < S(0) ? S(0) : x;
  } else {
    S result;
    if constexpr (KIND == Activation::Gelu) {
      result = S(0.5) * x * error_complement(x * S(-0.70710678118654752440));
    } else {
      // 1 + tanh(y) = 2 / (1 + e^-2y), which keeps its relative accuracy for negative y.
      S twice = x;
      if constexpr (KIND == Activation::GeluTanh) twice = S(1.59576912160573071176) * (x + S(0.044715) * x * x * x);
      result = x / (S(1) + exponential(-twice));
    }
    // Comparing the bits' meaning, not an infinity that the compiler may assume away.
    const S lowest = sizeof(S) == 4 ? S(-3.402823466e+38) : S(-1.7976931348623157e+308);
    return x < lowest ? S(0) : result;
  }
}

// Activations with exponentials are called, not repeated for each of a hundred sums.
#ifdef KS_EMULATED
#define KS_CALLED inline
#else
#define KS_CALLED static __device__ __noinline__
#endif
template <Activation KIND> KS_CALLED float activate_called(float x) { return activate<KIND>(x); }
template <Activation KIND> KS_DEVICE float activate_sum(float x) {
  if constexpr (KIND == Activation::None || KIND == Activation::Relu) return activate<KIND>(x);
  else return activate_called<KIND>(x);
}

// Adds the bias of output feature `feature` where there is one, and activates.
template <class E, Activation KIND, bool BIAS>
KS_DEVICE typename E::Sum finish(typename E::Sum sum, const void* bias, i64 feature) {
  if constexpr (BIAS) sum += E::constant(bias, feature);
  return activate<KIND>(sum);
}

}  // namespace ks
