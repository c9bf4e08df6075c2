// Bias and activation, applied to a sum before it is rounded.
#pragma once
#include "ptx.cuh"
namespace ks {
template <int KIND> KS_DEVICE float activate(float x) { return x; }
}
