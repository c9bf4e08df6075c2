// Threads as fibers: who runs next, who waits for what, barriers among threads, deadlocks, and errors.
#include "machine.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <sys/mman.h>
#include <ucontext.h>

namespace ks::emulated {

Machine machine;

namespace {
constexpr size_t STACK = 256 << 10, GUARD = 16 << 10;
jmp_buf scheduler;
std::string error;
}  // namespace

// A stack and where to go on. Fibers are kept for the next block; one that was left in the middle is started again.
struct Fiber {
  ucontext_t start;
  jmp_buf here;
  u8* stack = nullptr;
  bool started = false;
};

namespace {
std::vector<std::unique_ptr<Fiber>> fibers;

void body() {
  for (;;) {
    machine.launch->kernel(machine.launch->args, machine.launch->maps.data());
    Thread& t = self();
    check_finished(t);
    t.state = Thread::DONE;
    t.block->alive--;
    t.block->warps[t.warp].alive--;
    if (_setjmp(t.fiber->here) == 0) _longjmp(scheduler, 1);
  }
}

Fiber& fiber(size_t at) {
  while (fibers.size() <= at) {
    auto made = std::make_unique<Fiber>();
    void* memory = mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE) != 0) {
      std::fprintf(stderr, "emulator: no memory for %zu stacks of %zu bytes\n", at, STACK);
      std::exit(3);
    }
    made->stack = static_cast<u8*>(memory) + GUARD;
    fibers.push_back(std::move(made));
  }
  return *fibers[at];
}

// Switching goes through _setjmp and _longjmp, which ask nothing of the operating system.
void resume(Thread& t) {
  machine.self = &t;
  t.state = Thread::READY;
  if (_setjmp(scheduler) == 0) {
    if (t.fiber->started) _longjmp(t.fiber->here, 1);
    t.fiber->started = true;
    getcontext(&t.fiber->start);
    t.fiber->start.uc_stack.ss_sp = t.fiber->stack;
    t.fiber->start.uc_stack.ss_size = STACK;
    t.fiber->start.uc_link = nullptr;
    makecontext(&t.fiber->start, body, 0);
    setcontext(&t.fiber->start);
  }
  machine.self = nullptr;
}

std::string format(const char* form, va_list list) {
  char line[1024];
  std::vsnprintf(line, sizeof line, form, list);
  return line;
}
}  // namespace

std::string text(const char* form, ...) {
  va_list list;
  va_start(list, form);
  std::string made = format(form, list);
  va_end(list);
  return made;
}

void fail(const char* form, ...) {
  va_list list;
  va_start(list, form);
  std::string made = format(form, list);
  va_end(list);
  if (machine.self != nullptr) {
    const Thread& t = self();
    made = text("block %u, thread %u (warp %u, lane %u): ", t.block->index, t.index, t.warp, t.lane) + made;
  }
  error = made;
  _longjmp(scheduler, 2);
}

void wait(const char* what, bool (*over)(const Thread&), u64 a, u64 b, u64 c) {
  Thread& t = self();
  t.what = what;
  t.over = over;
  t.on[0] = a;
  t.on[1] = b;
  t.on[2] = c;
  while (!over(t)) {
    t.state = Thread::WAITING;
    if (_setjmp(t.fiber->here) == 0) _longjmp(scheduler, 1);
  }
  t.state = Thread::READY;
}

void together(Party& party, u32 size, u32 place, const char* what, void* operand, void (*work)(void* const*, u32)) {
  Thread& t = self();
  if (party.arrived == 0) {
    party.what = what;
    party.first = &t;
  } else if (std::strcmp(party.what, what) != 0) {
    fail("the %s takes different ways: this lane is at %s, lane %u of warp %u at %s", size == LANES ? "warp" : "warpgroup", what,
         party.first->lane, party.first->warp, party.what);
  }
  party.operands[place] = operand;
  if (++party.arrived < size) {
    t.party = &party;
    wait(what, [](const Thread& w) { return w.party->rounds != w.on[0]; }, party.rounds);
    return;
  }
  work(party.operands, size);
  party.arrived = 0;
  party.rounds++;
}

void Seen::raise(u32 agent, Mark m) {
  if (agent >= marks.size()) marks.resize(agent + 1);
  Mark& mine = marks[agent];
  if (m.clock > mine.clock) mine = m;
  else if (m.clock == mine.clock) mine.mask |= m.mask;
}

void Seen::join(const Seen& other) {
  for (u32 at = 0; at < other.marks.size(); at++) raise(at, other.marks[at]);
}

void release(Seen& to) {
  Thread& t = self();
  Warp& w = t.block->warps[t.warp];
  to.join(t.seen);
  to.raise(w.agent, {w.clock, 1u << t.lane});
  w.clock++;  // what comes after is not part of it
}

void meet(const std::vector<Thread*>& members) {
  Seen all;
  for (Thread* t : members) {
    Warp& w = t->block->warps[t->warp];
    all.join(t->seen);
    all.raise(w.agent, {w.clock, 1u << t->lane});
  }
  for (Thread* t : members) t->seen = all;
  // Whole warps meet: all their lanes are of one mind now.
  static u64 times = 0;
  times++;
  for (Thread* t : members) {
    Warp& w = t->block->warps[t->warp];
    if (w.met != times) w.clock++;
    w.met = times;
  }
  for (Thread* t : members) t->synced = t->block->warps[t->warp].clock;
}

namespace {
void meeting(Meeting& m, u32 wanted, const char* what, u64 id) {
  m.members.push_back(&self());
  m.arrived++;
  if (m.arrived < wanted) {
    // The barrier opens also when the last ones it waits for end.
    self().party = nullptr;
    wait(what, [](const Thread& t) { return reinterpret_cast<const Meeting*>(t.on[0])->rounds != t.on[1]; },
         reinterpret_cast<u64>(&m), m.rounds, id);
    return;
  }
  meet(m.members);
  m.members.clear();
  m.arrived = 0;
  m.wanted = 0;
  m.rounds++;
}

// Barriers of a block and of a cluster wait for the threads that have not ended; looked at when nothing else goes on.
bool open_for_the_living() {
  bool opened = false;
  auto look = [&](Meeting& m, u32 alive) {
    if (m.arrived == 0 || m.arrived < alive) return;
    meet(m.members);
    m.members.clear();
    m.arrived = 0;
    m.rounds++;
    opened = true;
  };
  u32 alive = 0;
  for (auto& b : machine.blocks) {
    look(b->meetings[0], b->alive);
    alive += b->alive;
  }
  look(machine.cluster, alive);
  return opened;
}
}  // namespace

void sync_block() { meeting(block().meetings[0], block().alive, "sync_block", 0); }

void sync_some(u32 id, u32 threads) {
  if (id < 1 || id > 15) fail("sync_some: barrier %u, expected 1 to 15 (0 is sync_block's)", id);
  if (threads == 0 || threads % LANES != 0 || threads > block().threads.size())
    fail("sync_some: %u threads, expected whole warps of a block of %zu threads", threads, block().threads.size());
  Meeting& m = block().meetings[id];
  if (m.arrived == 0) m.wanted = threads;
  else if (m.wanted != threads) fail("sync_some: barrier %u is waited for by %u threads and by %u", id, m.wanted, threads);
  meeting(m, threads, "sync_some", id);
}

void sync_cluster() {
  u32 alive = 0;
  for (auto& b : machine.blocks) alive += b->alive;
  meeting(machine.cluster, alive, "sync_cluster", 0);
}

void sync_warp() {
  together(block().warps[self().warp].party, LANES, self().lane, "sync_warp", &self(), [](void* const* threads, u32 size) {
    std::vector<Thread*> members;
    for (u32 at = 0; at < size; at++) members.push_back(static_cast<Thread*>(threads[at]));
    meet(members);
  });
}

u32 shuffle_xor(u32 w, u32 mask) {
  struct Operand {
    u32 word, mask, result;
  } mine{w, mask, 0};
  together(block().warps[self().warp].party, LANES, self().lane, "shuffle_xor", &mine, [](void* const* all, u32 size) {
    for (u32 at = 0; at < size; at++) {
      Operand& o = *static_cast<Operand*>(all[at]);
      if (o.mask >= LANES) fail("shuffle_xor: mask %u, expected less than 32", o.mask);
      o.result = static_cast<Operand*>(all[at ^ o.mask])->word;
    }
  });
  return mine.result;
}

u32 uniform(u32 w) {
  together(block().warps[self().warp].party, LANES, self().lane, "uniform", &w, [](void* const* all, u32 size) {
    auto word = [&](u32 lane) { return *static_cast<const u32*>(all[lane]); };
    for (u32 at = 1; at < size; at++)
      if (word(at) != word(0)) fail("uniform: lane %u has %#x, lane 0 %#x, expected the same word in all lanes", at, word(at), word(0));
  });
  return w;
}

u32 thread_index() { return self().index; }
u32 block_index() { return block().index; }
u32 grid_size() { return machine.launch->grid; }
u32 cluster_rank() { return block().rank; }

namespace {
// Everybody waits: the threads by what they wait for.
std::string deadlock() {
  std::string all = "deadlock:";
  int groups = 0;
  for (auto& b : machine.blocks) {
    for (size_t from = 0; from < b->threads.size();) {
      auto describe = [&](size_t at) { return b->threads[at].state == Thread::DONE ? std::string("ended") : "wait at " + waits_for(b->threads[at]); };
      const std::string first = describe(from);
      size_t to = from + 1;
      while (to < b->threads.size() && describe(to) == first) to++;
      if (++groups > 12) return all + "; and so on";
      all += text("%s block %u threads %zu to %zu %s", from == 0 && b->rank == 0 ? "" : ";", b->index, from, to - 1, first.c_str());
      from = to;
    }
  }
  return all;
}

void prepare(Block& b, u32 rank, size_t first_fiber) {
  const Launch& launch = *machine.launch;
  b.index = machine.first_block + rank;
  b.rank = rank;
  b.alive = launch.threads;
  b.threads.resize(launch.threads);
  b.warps.resize(launch.threads / LANES);
  b.groups.resize((launch.threads + GROUP - 1) / GROUP);
  b.cells.assign((launch.shared_bytes + 1) / 2, Cell{});
  // What a launch with this many threads and blocks gives to each, and what is left over.
  const u32 each = std::min(65536 / (launch.threads * launch.blocks) / 8 * 8, 256u);
  b.registers_free = 0;
  for (u32 at = 0; at < b.warps.size(); at++) {
    b.warps[at].agent = machine.agents++;
    b.warps[at].registers = each;
  }
  for (u32 at = 0; at < launch.threads; at++) {
    Thread& t = b.threads[at];
    t.block = &b;
    t.index = at;
    t.lane = at % LANES;
    t.warp = at / LANES;
    t.synced = b.warps[t.warp].clock;
    t.fiber = &fiber(first_fiber + at);
  }
}

// Runs what belongs to no thread; the error where it fails.
std::string guarded(void (*work)()) {
  error.clear();
  if (_setjmp(scheduler) == 0) work();
  return error;
}

std::string run_cluster(const std::vector<Thread*>& order) {
  for (size_t ended = 0; ended < order.size();) {
    bool moved = false;
    for (Thread* t : order) {
      if (t->state == Thread::DONE || (t->state == Thread::WAITING && !t->over(*t))) continue;
      moved = true;
      error.clear();
      resume(*t);
      if (!error.empty()) return error;
      if (t->state == Thread::DONE) ended++;
    }
    if (moved || open_for_the_living()) continue;
    if (machine.loads.empty()) return deadlock();
    const std::string why = guarded([] { land_one(); });
    if (!why.empty()) return why;
  }
  return guarded([] {
    for (auto& b : machine.blocks) check_block_finished(*b);
  });
}
}  // namespace

std::string run(Launch& launch) {
  if (launch.threads == 0 || launch.threads % LANES != 0 || launch.threads > 1024)
    return text("a block of %u threads, expected 32 to 1024 in whole warps", launch.threads);
  if (launch.cluster == 0 || launch.cluster > 8 || launch.grid % launch.cluster != 0)
    return text("%u blocks in clusters of %u, expected clusters of 1 to 8 that divide the grid", launch.grid, launch.cluster);
  if (launch.shared_bytes > 227 * 1024) return text("%u bytes of shared memory, expected at most 227 KiB", launch.shared_bytes);
  std::string why;
  for (u32 first = 0; first < launch.grid && why.empty(); first += launch.cluster) {
    machine = Machine{};
    machine.launch = &launch;
    machine.first_block = first;
    std::vector<u8*> memories;
    const size_t pages = (launch.shared_bytes + 4095) / 4096 * 4096;
    std::vector<Thread*> order;
    for (u32 rank = 0; rank < launch.cluster; rank++) {
      machine.blocks.push_back(std::make_unique<Block>());
      Block& b = *machine.blocks.back();
      // Unreadable pages on both sides stop a pointer that is followed without a wrapper.
      u8* memory = static_cast<u8*>(mmap(nullptr, pages + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      if (memory == MAP_FAILED || (pages != 0 && mprotect(memory + 4096, pages, PROT_READ | PROT_WRITE) != 0))
        return "no memory for a block's shared memory";
      memories.push_back(memory);
      b.shared = memory + 4096;
      std::memset(b.shared, 0xFF, pages);
      prepare(b, rank, size_t(rank) * launch.threads);
      for (Thread& t : b.threads) order.push_back(&t);
    }
    if (launch.late) std::reverse(order.begin(), order.end());
    why = run_cluster(order);
    machine.self = nullptr;
    if (!why.empty())
      for (Thread* t : order) t->fiber->started = false;
    for (u8* memory : memories) munmap(memory, pages + 8192);
  }
  machine = Machine{};
  return why;
}

}  // namespace ks::emulated
