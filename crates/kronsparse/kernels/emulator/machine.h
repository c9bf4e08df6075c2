// The emulated GPU: threads, blocks, who has seen what, and the ways to wait. What each part checks stands in its .cpp file.
#pragma once

#include "../ptx.cuh"
#include "../args.cuh"

#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace ks::emulated {

// Where the first byte of dynamic shared memory lies in a block's window, as on sm_90. Nothing may rely on 0.
constexpr u32 SHARED_BASE = 1024;
constexpr u32 LANES = 32, GROUP = 128;

struct Block;
struct Thread;

// ---- Errors ------------------------------------------------------------------------------------------------------------

// Ends the run with a message; where a thread runs, the message says which.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- Time: who has seen what -------------------------------------------------------------------------------------------

// An agent is a warp, or an mbarrier through which the copy engine and senders report. Each has a clock. `Seen` holds for each agent how
// much of it has been seen: everything before `clock`, and what the lanes of `mask` did at `clock`.
struct Mark {
  u32 clock = 0, mask = 0;
};
struct Seen {
  std::vector<Mark> marks;
  void raise(u32 agent, Mark m);
  void join(const Seen& other);
  bool covers(u32 agent, u32 clock, u32 lane) const {
    if (agent >= marks.size()) return false;
    const Mark& m = marks[agent];
    return clock < m.clock || (clock == m.clock && (m.mask >> lane & 1));
  }
};

// ---- Shared memory -----------------------------------------------------------------------------------------------------

// The last write of two bytes, and all reads since.
struct Cell {
  u32 write_clock = 0;
  u16 write_agent = 0;
  u8 write_lane = 0;
  u8 flags = 0;
  u32 write_fence = 0;   // fences that the writer had done
  u32 writer = 0;        // thread of the cluster, for ordinary writes
  u32 read_clock = 0, read_mask = 0;
  u16 read_agent = 0;
  u16 reading = 0;       // asynchronous reads under way
  u32 more = 0;          // 1 + index of further readers
};
constexpr u8 WRITTEN = 1, ORDINARY = 2, LANDING = 4, IS_BARRIER = 8, SENT = 16;

struct Reader {
  u32 agent, clock, mask;
};

// ---- mbarriers and asynchronous work -----------------------------------------------------------------------------------

struct Barrier {
  u32 count = 0, pending = 0, agent = 0, phase = 0;
  i64 bytes = 0;      // announced and not yet there
  i64 coming = 0;     // of loads and sends under way
  const Thread* announcer = nullptr;
  u32 announced = 0;  // the clock of its warp when it last announced bytes
  Thread* made_by = nullptr;
  bool fenced = false;
  Seen released;
};

// A load by the copy engine, or 16 bytes that a thread sent, not yet carried out in one block.
struct Load {
  Block* block;
  u32 barrier;                                          // offset in the block
  u32 bytes;
  std::vector<std::pair<u32, std::vector<u8>>> pieces;  // offset in the block, what lands there
  bool sent = false;                                    // by a thread
};

struct CopyPiece {
  u32 offset, bytes;
  u8 data[16];
};

// A store by the copy engine: what it reads from shared memory, and where that goes.
struct StorePiece {
  u32 offset, bytes;
  u8* to;
};

struct Multiplication {
  Number number;
  u32 n;
  float* d;
  bool add;  // to what `d` holds
  bool a_shared;
  u32 a[4];  // where A is in registers; as they were: the compiler keeps registers that a wgmma under way still reads
  u64 descriptor_a, descriptor_b;
  std::shared_ptr<std::vector<float>> sums;
};

// ---- Threads and blocks ------------------------------------------------------------------------------------------------

// Threads that do something together: a warp, or the four warps of a warpgroup.
struct Party {
  u32 arrived = 0;
  u64 rounds = 0;
  const char* what = nullptr;
  Thread* first = nullptr;
  void* operands[GROUP];
};

struct Warp {
  u32 clock = 1, agent = 0, alive = LANES;
  u32 registers = 0;
  u64 met = 0;
  Party party;
};

struct Fiber;

struct Thread {
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  u32 index = 0, lane = 0, warp = 0;
  enum { READY, WAITING, DONE } state = READY;
  // While it waits: for what, with which numbers, and how to find out.
  const char* what = nullptr;
  bool (*over)(const Thread&) = nullptr;
  u64 on[3] = {};
  Party* party = nullptr;
  Seen seen;
  u32 synced = 0;    // the warp's clock when it last was of one mind
  u32 fences = 0;    // fence_async calls
  std::vector<CopyPiece> copies_open;
  std::deque<std::vector<CopyPiece>> copies;
  std::vector<StorePiece> stores_open;
  std::deque<std::vector<StorePiece>> stores;
  std::vector<Multiplication> products_open;
  std::deque<std::vector<Multiplication>> products;
  bool products_fenced = false;
  bool waited = false;  // for the kernels before
  u32 keep = 0;      // groups that the present wgmma_wait leaves under way
};

struct Meeting {  // of a block, of some of its warps, or of a cluster
  u32 arrived = 0, wanted = 0;
  u64 rounds = 0;
  Seen seen;
  std::vector<Thread*> members;
};

struct Block {
  u32 index = 0, rank = 0, alive = 0;
  u8* shared = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Party> groups;
  std::vector<Cell> cells;
  std::vector<std::vector<Reader>> readers;
  std::vector<std::pair<u32, Barrier>> barriers;  // by offset
  Meeting meetings[16];
  u32 registers_free = 0;
};

// ---- A launch ----------------------------------------------------------------------------------------------------------

struct Buffer {
  std::string name;
  u8* base = nullptr;
  u64 bytes = 0;
  bool writable = false;
  std::vector<u8> written;  // of a writable buffer: one per byte
};

// What a test writes into the 128 bytes of a TensorMap.
struct TensorBox {
  u64 base;
  u64 dims[4];     // elements, innermost first
  u64 strides[3];  // bytes from one to the next of dimensions 1, 2, 3
  u32 box[4];
  u32 element;     // bytes
  u32 swizzle;     // 0, 32, 64 or 128 bytes
  u64 magic;
};
static_assert(sizeof(TensorBox) <= sizeof(TensorMap), "a box must fit into the 128 bytes of a map");
constexpr u64 BOX_MAGIC = 0x6B732D626F782D31;

using Entry = std::function<void(const Args&, const TensorMap*)>;

struct Launch {
  Entry kernel;
  Args args{};
  std::vector<TensorMap> maps;
  u32 grid = 1, threads = 32, cluster = 1, shared_bytes = 0;
  u32 blocks = 1;     // that a multiprocessor must hold at once
  bool overlaps = false;  // kernels before may not have ended when it begins
  bool late = false;  // asynchronous work as late as possible, threads in reverse order
  std::vector<Buffer> buffers;
};

// Empty where all went well.
std::string run(Launch& launch);

// ---- What the parts offer each other -----------------------------------------------------------------------------------

struct Machine {
  Launch* launch = nullptr;
  std::vector<std::unique_ptr<Block>> blocks;  // of the present cluster
  Meeting cluster;
  Thread* self = nullptr;
  u32 agents = 0;
  std::deque<Load> loads;
  u32 first_block = 0;
};
extern Machine machine;

inline Thread& self() { return *machine.self; }
inline Block& block() { return *machine.self->block; }

// Stops the calling thread until `over`.
void wait(const char* what, bool (*over)(const Thread&), u64 a = 0, u64 b = 0, u64 c = 0);
// All lanes of the party arrive; the last one does `work` with what all of them brought, then all go on.
void together(Party& party, u32 size, u32 place, const char* what, void* operand, void (*work)(void* const* operands, u32 size));
// What a waiting thread waits for, in words.
std::string waits_for(const Thread& t);

// What this thread did until now becomes visible to who joins `to`.
void release(Seen& to);
// All of these threads have seen what each of them has.
void meet(const std::vector<Thread*>& members);

u32 offset_of(const void* p, u32 bytes, u32 alignment, const char* what);
void check_read(Block& b, u32 offset, u32 bytes, const char* what);
void check_write(Block& b, u32 offset, u32 bytes, const char* what);
void mark_write(Block& b, u32 offset, u32 bytes);
// From the check of an asynchronous write until it lands nobody may touch the bytes.
void begin_landing(Block& b, u32 offset, u32 bytes, const char* what);
void end_landing(Block& b, u32 offset, u32 bytes);
void mark_landed(Block& b, u32 offset, u32 bytes, u32 agent, u32 clock, bool sent);
// From the check of an asynchronous read until it is over nobody may write the bytes.
void begin_reading(Block& b, u32 offset, u32 bytes, const char* what);
void end_reading(Block& b, u32 offset, u32 bytes);
void check_fenced(Block& b, u32 offset, u32 bytes, const char* what);

u8* global(const void* p, u64 bytes, u32 alignment, bool write, const char* what);
void mark_global(const u8* p, u64 bytes, const char* what);

// Where a swizzle of so many bytes puts an address of shared memory.
u32 swizzled(u32 address, u32 swizzle);

// Carries out the oldest waiting load or send.
void land_one();
// What must be over when a thread ends.
void check_finished(const Thread& t);
void check_block_finished(const Block& b);

}  // namespace ks::emulated
