// What every kernel of this folder is given. The host's copy is `cuda::launch::Args`; both sides assert its size.
#pragma once
#include "ptx.cuh"

namespace ks {

struct Args {
  const void* x;     // batch-first [n][a][c][d], batch-last [a][c][d][n]
  const void* w;     // packed for this kernel
  const void* bias;  // a·b·d numbers of the output's type, or null
  void* y;           // batch-first [n][a][b][d], batch-last [a][b][d][n]; of a gate every second number of that
  i64 n;             // vectors
  const void* residual;  // as y, or null
};

}  // namespace ks
