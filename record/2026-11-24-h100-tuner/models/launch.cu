// How long one launch takes the host: plain, with the attribute that lets the next one begin early, and by cudaLaunchKernel.
#include <cuda.h>
#include <cuda_runtime.h>
#include <chrono>
#include <cstdio>
#include <algorithm>
__global__ void nothing(int* p, int n) { if (n < 0) *p = n; }
static double now() { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
int main() {
  cudaFree(0);
  CUfunction f; CUkernel k;
  cudaGetFuncBySymbol((cudaFunction_t*)&f, (const void*)nothing);
  int* p = nullptr; int n = 1; void* args[] = {&p, &n};
  for (int way = 0; way < 4; ++way) {
    double times[40];
    for (int round = 0; round < 40; ++round) {
      cudaDeviceSynchronize();
      double begin = now();
      for (int i = 0; i < 200; ++i) {
        if (way == 0) cuLaunchKernel(f, 128, 1, 1, 128, 1, 1, 0, 0, args, nullptr);
        else if (way < 3) {
          CUlaunchAttribute a[1]; a[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION; a[0].value.programmaticStreamSerializationAllowed = 1;
          CUlaunchConfig c = {}; c.gridDimX = 128; c.gridDimY = c.gridDimZ = 1; c.blockDimX = 128; c.blockDimY = c.blockDimZ = 1; c.attrs = a; c.numAttrs = way == 2;
          cuLaunchKernelEx(&c, f, args, nullptr);
        } else { CUcontext ctx; cuCtxGetCurrent(&ctx); cuCtxSetCurrent(ctx); }
      }
      times[round] = (now() - begin) / 200;
    }
    std::sort(times, times + 40);
    const char* names[] = {"cuLaunchKernel", "cuLaunchKernelEx", "cuLaunchKernelEx, early", "get and set context"};
    printf("%s: median %.2f us, least %.2f\n", names[way], times[20], times[0]);
  }
  printf("%s\n", cudaGetErrorString(cudaDeviceSynchronize()));
}
