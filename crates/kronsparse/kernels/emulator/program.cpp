// The emulator's main program: reads launches from a file, runs them, and writes what came out to another.
// Both are little-endian 64-bit numbers and bytes behind their count; the writer is tests/emulator/launch.rs.
#include "program.h"

#include <csignal>
#include <cstdio>
#include <sys/mman.h>
#include <unistd.h>

using namespace ks::emulated;

namespace {
std::FILE *input, *output;

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::exit(3);
}
u64 number() {
  u64 value;
  if (std::fread(&value, 8, 1, input) != 1) broken("the file of launches ends too early");
  return value;
}
std::vector<u8> bytes() {
  std::vector<u8> all(number());
  if (!all.empty() && std::fread(all.data(), 1, all.size(), input) != all.size()) broken("the file of launches ends too early");
  return all;
}
void put(const void* data, u64 size) {
  std::fwrite(&size, 8, 1, output);
  std::fwrite(data, 1, size, output);
}

constexpr u64 PAGE = 4096;
constexpr u8 FENCE = 0xA5;

// A buffer between unreadable pages; the first or the last byte is as near to its page as the alignment allows.
struct Fenced {
  u8* memory = nullptr;
  u64 size = 0, inner = 0;
  u8* data = nullptr;
  u64 bytes = 0;

  // `offset`: of the data from a multiple of 256 bytes.
  Fenced(const std::vector<u8>& from, u64 offset) {
    bytes = from.size();
    inner = (bytes + 512 + PAGE - 1) / PAGE * PAGE;
    size = inner + 2 * PAGE;
    memory = static_cast<u8*>(mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED || mprotect(memory + PAGE, inner, PROT_READ | PROT_WRITE) != 0) broken("no memory for a buffer");
    std::memset(memory + PAGE, FENCE, inner);
    data = memory + PAGE + (inner - bytes - offset) / 256 * 256 + offset;
    if (bytes != 0) std::memcpy(data, from.data(), bytes);
  }
  Fenced(const Fenced&) = delete;
  ~Fenced() { munmap(memory, size); }
  bool whole() const {
    for (const u8* at = memory + PAGE; at < memory + PAGE + inner; at++)
      if ((at < data || at >= data + bytes) && *at != FENCE) return false;
    return true;
  }
};

// Ends the program without a result for this launch; the reader goes on with the next one.
void ended(int signal) {
  const bool late = signal == SIGALRM;
  if (late) std::fprintf(stderr, "a launch takes too long: a loop without end\n");
  else std::fprintf(stderr, "signal %d: a pointer was followed without a wrapper, outside of all memory, or a stack is full\n", signal);
  std::_Exit(4);
}

void one() {
  const std::vector<u8> name = bytes();
  Launch launch;
  launch.late = number() != 0;
  launch.grid = static_cast<u32>(number());
  launch.threads = static_cast<u32>(number());
  launch.cluster = static_cast<u32>(number());
  launch.shared_bytes = static_cast<u32>(number());
  launch.args.n = static_cast<i64>(number());
  launch.overlaps = number() != 0;
  const unsigned seconds = static_cast<unsigned>(number());
  const char* names[] = {"x", "w", "bias", "y", "residual"};
  std::vector<std::unique_ptr<Fenced>> buffers;
  for (int at = 0; at < 5; at++) {
    const bool present = number() != 0;
    const u64 offset = number();
    const std::vector<u8> data = bytes();
    buffers.push_back(std::make_unique<Fenced>(data, offset));
    if (!present) continue;
    const bool writable = at == 3;
    launch.buffers.push_back({names[at], buffers[at]->data, data.size(), writable, std::vector<u8>(writable ? data.size() : 0, 0)});
    const void** fields[] = {&launch.args.x, &launch.args.w, &launch.args.bias, const_cast<const void**>(&launch.args.y), &launch.args.residual};
    *fields[at] = buffers[at]->data;
  }
  for (u64 maps = number(); maps > 0; maps--) {
    TensorBox box{};
    box.magic = BOX_MAGIC;
    const u64 buffer = number();
    if (buffer > 3) broken("a tensor map of an unknown buffer");
    box.base = reinterpret_cast<u64>(buffers[buffer]->data);
    box.element = static_cast<u32>(number());
    box.swizzle = static_cast<u32>(number());
    for (u64& dim : box.dims) dim = number();
    for (u64& stride : box.strides) stride = number();
    for (u32& edge : box.box) edge = static_cast<u32>(number());
    ks::TensorMap map{};
    std::memcpy(&map, &box, sizeof box);
    launch.maps.push_back(map);
  }
  const std::string wanted(name.begin(), name.end());
  const Registered* found = nullptr;
  for (const Registered& kernel : registered)
    if (wanted == kernel.name) found = &kernel;
  std::string why;
  if (found == nullptr) why = "there is no kernel of this name";
  else if (found->threads != launch.threads)
    why = text("launched with %u threads, but the kernel is compiled for %u", launch.threads, found->threads);
  else {
    launch.kernel = found->kernel;
    launch.blocks = found->blocks;
    launch.maps.resize(2);
    alarm(seconds);
    why = run(launch);
    alarm(0);
  }
  for (int at = 0; at < 4 && why.empty(); at++)
    if (!buffers[at]->whole()) why = text("bytes beside %s were written", names[at]);
  put(why.data(), why.size());
  put(buffers[3]->data, buffers[3]->bytes);
  std::fflush(output);
}
}  // namespace

int main(int count, char** arguments) {
  if (count != 3) broken("usage: PROGRAM LAUNCHES RESULTS");
  input = std::fopen(arguments[1], "rb");
  output = std::fopen(arguments[2], "wb");
  if (input == nullptr || output == nullptr) broken("cannot open the files");
  // A fault happens on a fiber's stack, which may be full: the handler has its own.
  static u8 handler_stack[64 << 10];
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof handler_stack;
  sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_handler = ended;
  action.sa_flags = SA_ONSTACK;
  for (int signal : {SIGSEGV, SIGBUS, SIGALRM, SIGFPE}) sigaction(signal, &action, nullptr);
  for (u64 launches = number(); launches > 0; launches--) one();
  std::fclose(output);
  return 0;
}
