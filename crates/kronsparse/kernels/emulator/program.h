// What a translation unit with kernels needs to offer them to the emulator's main program.
#pragma once

#include "machine.h"

namespace ks::emulated {

struct Registered {
  const char* name;
  u32 threads, blocks;  // as its KS_KERNEL says
  Entry kernel;
};
// Defined by the translation unit that holds the kernels.
extern const std::vector<Registered> registered;

inline Entry entry(void (*kernel)(const Args)) { return [=](const Args& a, const TensorMap*) { kernel(a); }; }
inline Entry entry(void (*kernel)(const Args, const TensorMap)) { return [=](const Args& a, const TensorMap* m) { kernel(a, m[0]); }; }
inline Entry entry(void (*kernel)(const Args, const TensorMap, const TensorMap)) {
  return [=](const Args& a, const TensorMap* m) { kernel(a, m[0], m[1]); };
}

}  // namespace ks::emulated
