// mbarriers and what reports to them: the copy engine's bulk copies, TMA boxes with swizzle and multicast, and bytes that threads
// send to other blocks; the copy engine's stores from shared memory.
#include "machine.h"

#include <algorithm>

namespace ks::emulated {

namespace {
Barrier& barrier_at(Block& b, u32 offset, const char* what) {
  for (auto& [at, barrier] : b.barriers)
    if (at == offset) return barrier;
  fail("%s: there is no initialised mbarrier at shared+%u of block %u", what, offset, b.index);
}

// Whether the calling thread has seen what `other` did at this clock of its warp.
bool knows(const Thread& other, u32 clock) {
  const Thread& t = self();
  if (t.block == other.block && t.warp == other.warp) return &t == &other || clock < t.synced;
  return t.seen.covers(other.block->warps[other.warp].agent, clock, other.lane);
}

// The mbarrier, which the calling thread must know to be initialised.
Barrier& known_barrier(Block& b, u32 offset, const char* what) {
  Barrier& barrier = barrier_at(b, offset, what);
  const Thread& maker = *barrier.made_by;
  if (!knows(maker, b.cells[offset / 2].write_clock))
    fail("%s: the mbarrier at shared+%u of block %u was initialised by thread %u, and no barrier lies between", what, offset, b.index, maker.index);
  return barrier;
}

void end_phase_if_due(Barrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  b.phase++;
  b.pending = b.count;
  // Who waits for the phase has seen what came in it.
  b.released.raise(b.agent, {b.phase, 0});
}

Block& peer(u32 rank, const char* what) {
  if (rank >= machine.blocks.size()) fail("%s: block %u of a cluster of %zu", what, rank, machine.blocks.size());
  Block& b = *machine.blocks[rank];
  if (b.alive == 0) fail("%s: block %u of the cluster has ended", what, rank);
  return b;
}

// The mbarrier at this offset of a block of the cluster, which asynchronous work and other blocks may use.
Barrier& fenced_barrier(Block& target, u32 offset, const char* what) {
  Barrier& barrier = known_barrier(target, offset, what);
  if (!barrier.fenced) fail("%s: the mbarrier at shared+%u was initialised without barrier_init_fence", what, offset);
  return barrier;
}
}  // namespace

void barrier_init(u64* b, u32 count) {
  const u32 offset = offset_of(b, 8, 8, "barrier_init");
  if (count == 0 || count >= 1 << 20) fail("barrier_init: %u arrivals, expected 1 to 2^20 - 1", count);
  check_write(block(), offset, 8, "barrier_init");
  mark_write(block(), offset, 8);
  for (u32 at = offset; at < offset + 8; at += 2) block().cells[at / 2].flags |= IS_BARRIER;
  Barrier made;
  made.count = made.pending = count;
  made.agent = machine.agents++;
  made.made_by = &self();
  block().barriers.emplace_back(offset, made);
}

void barrier_init_fence() {
  for (auto& [offset, barrier] : block().barriers)
    if (barrier.made_by == &self()) barrier.fenced = true;
}

void barrier_arrive(u64* b, u32 rank, bool remote, u32 bytes) {
  const char* what = remote ? "barrier_arrive_at" : bytes != 0 ? "barrier_expect" : "barrier_arrive";
  const u32 offset = offset_of(b, 8, 8, what);
  Block& target = remote ? peer(rank, what) : block();
  Barrier& barrier = remote ? fenced_barrier(target, offset, what) : known_barrier(target, offset, what);
  if (barrier.pending == 0) fail("%s: phase %u of the mbarrier at shared+%u has all its %u arrivals already", what, barrier.phase, offset, barrier.count);
  barrier.bytes += bytes;
  if (bytes != 0) {
    barrier.announcer = &self();
    barrier.announced = block().warps[self().warp].clock;
  }
  if (barrier.bytes >= 1 << 20) fail("%s: the mbarrier at shared+%u expects %lld bytes, more than 2^20 - 1", what, offset, static_cast<long long>(barrier.bytes));
  release(barrier.released);
  barrier.pending--;
  end_phase_if_due(barrier);
}

void barrier_wait(u64* b, u32 parity) {
  const char* what = "barrier_wait";
  const u32 offset = offset_of(b, 8, 8, what);
  if (parity > 1) fail("barrier_wait: parity %u, expected 0 or 1", parity);
  known_barrier(block(), offset, what);
  wait(what, [](const Thread& t) { return (barrier_at(*t.block, static_cast<u32>(t.on[0]), "barrier_wait").phase & 1) != t.on[1]; }, offset, parity);
  self().seen.join(barrier_at(block(), offset, what).released);
}

std::string waits_for(const Thread& t) {
  const std::string what = t.what;
  if (what == "barrier_wait") {
    const Barrier& b = barrier_at(*t.block, static_cast<u32>(t.on[0]), t.what);
    return text("barrier_wait(shared+%llu, parity %llu): phase %u lacks %u of %u arrivals and %lld bytes", t.on[0], t.on[1], b.phase, b.pending, b.count,
                static_cast<long long>(b.bytes));
  }
  if (what == "sync_some")
    return text("sync_some(%llu): %u of %u threads came", t.on[2], t.block->meetings[t.on[2]].arrived, t.block->meetings[t.on[2]].wanted);
  if (what == "registers_increase" && t.party == nullptr) return text("registers_increase(%llu): %u registers are free", t.on[1], t.block->registers_free);
  return what;
}

// ---- Loads and sends -------------------------------------------------------------------------------------------------------------

namespace {
void land(Load& load) {
  Barrier& barrier = barrier_at(*load.block, load.barrier, "asynchronous work");
  for (auto& [offset, data] : load.pieces) {
    const u32 bytes = static_cast<u32>(data.size());
    std::memcpy(load.block->shared + offset, data.data(), bytes);
    mark_landed(*load.block, offset, bytes, barrier.agent, barrier.phase, load.sent);
  }
  barrier.bytes -= load.bytes;
  barrier.coming -= load.bytes;
  end_phase_if_due(barrier);
}

// From now on the load is under way: it lands at once, or later.
void set_out(Load load, Barrier& barrier) {
  barrier.coming += load.bytes;
  machine.loads.push_back(std::move(load));
  if (!machine.launch->late) land_one();
}

void issue(std::vector<std::pair<u32, std::vector<u8>>> pieces, u64* b, u32 mask, const char* what) {
  const u32 barrier = offset_of(b, 8, 8, what);
  if (mask != ALONE && (mask == 0 || mask >> machine.blocks.size() != 0)) fail("%s: multicast mask %#x in a cluster of %zu", what, mask, machine.blocks.size());
  u32 bytes = 0;
  for (auto& piece : pieces) bytes += static_cast<u32>(piece.second.size());
  for (u32 rank = 0; rank < machine.blocks.size(); rank++) {
    if (mask == ALONE ? rank != block().rank : !(mask >> rank & 1)) continue;
    Block& target = peer(rank, what);
    Barrier& counts = fenced_barrier(target, barrier, what);
    for (auto& [offset, data] : pieces) {
      begin_landing(target, offset, static_cast<u32>(data.size()), what);
      check_fenced(target, offset, static_cast<u32>(data.size()), what);
    }
    set_out({&target, barrier, bytes, pieces}, counts);
  }
}

const TensorBox& box_of(const TensorMap* m, const char* what) {
  const auto* box = reinterpret_cast<const TensorBox*>(m);
  if (reinterpret_cast<std::uintptr_t>(m) % 64 != 0) fail("%s: the tensor map is not aligned to 64 bytes", what);
  if (box->magic != BOX_MAGIC) fail("%s: this is not a tensor map", what);
  const u64 row = u64(box->box[0]) * box->element;
  if (row % 16 != 0) fail("%s: the box's inner dimension has %llu bytes, expected a multiple of 16", what, row);
  if (box->swizzle != 0 && row > box->swizzle) fail("%s: the box's inner dimension has %llu bytes, more than the swizzle's %u", what, row, box->swizzle);
  if (box->swizzle != 0 && box->swizzle != 32 && box->swizzle != 64 && box->swizzle != 128) fail("%s: a swizzle of %u bytes", what, box->swizzle);
  if (box->base % 16 != 0) fail("%s: the tensor does not start at a multiple of 16 bytes", what);
  for (u64 stride : box->strides)
    if (stride % 16 != 0 || stride >> 40 != 0) fail("%s: a stride of %llu bytes, expected a multiple of 16 below 2^40", what, stride);
  for (int at = 0; at < 4; at++) {
    if (box->box[at] == 0 || box->box[at] > 256) fail("%s: dimension %d of the box is %u, expected 1 to 256", what, at, box->box[at]);
    if (box->dims[at] == 0 || box->dims[at] > 1ull << 32) fail("%s: dimension %d of the tensor is %llu, expected 1 to 2^32", what, at, box->dims[at]);
  }
  return *box;
}

// Calls `f(offset in shared memory, address in global memory or 0 outside of the tensor)` for every element of a box.
template <class F> void each_element(const TensorBox& box, u32 start, const int (&at)[4], F f) {
  u32 linear = 0;
  for (u32 w = 0; w < box.box[3]; w++)
    for (u32 z = 0; z < box.box[2]; z++)
      for (u32 y = 0; y < box.box[1]; y++)
        for (u32 x = 0; x < box.box[0]; x++, linear += box.element) {
          const i64 index[4] = {i64(at[0]) + x, i64(at[1]) + y, i64(at[2]) + z, i64(at[3]) + w};
          bool inside = true;
          u64 address = box.base + u64(index[0]) * box.element;
          for (int k = 0; k < 4; k++) {
            inside &= index[k] >= 0 && u64(index[k]) < box.dims[k];
            if (k > 0) address += u64(index[k]) * box.strides[k - 1];
          }
          f(swizzled(SHARED_BASE + start + linear, box.swizzle) - SHARED_BASE, inside ? address : 0);
        }
}

u32 bytes_of(const TensorBox& box) { return box.element * box.box[0] * box.box[1] * box.box[2] * box.box[3]; }

// The units of 16 bytes among which a swizzled box is spread out lie within these bytes.
u32 place_of(const TensorBox& box, const void* p, const char* what) {
  const u32 offset = offset_of(p, bytes_of(box), 128, what);
  return offset;
}
}  // namespace

u32 swizzled(u32 address, u32 swizzle) {
  switch (swizzle) {
    case 32: return address ^ (address >> 3 & 0x10);
    case 64: return address ^ (address >> 3 & 0x30);
    case 128: return address ^ (address >> 3 & 0x70);
    default: return address;
  }
}

void land_one() {
  Load load = std::move(machine.loads.front());
  machine.loads.pop_front();
  land(load);
}

void bulk_load(void* to, const void* from, u32 bytes, u64* b, u32 mask) {
  const char* what = mask == ALONE ? "bulk_load" : "bulk_load_multicast";
  if (bytes == 0 || bytes % 16 != 0) fail("%s: %u bytes, expected a multiple of 16", what, bytes);
  const u32 offset = offset_of(to, bytes, 16, what);
  const u8* source = global(from, bytes, 16, false, what);
  issue({{offset, std::vector<u8>(source, source + bytes)}}, b, mask, what);
}

// A thread writes, not the copy engine: of what lay there, only the order among threads is asked.
void store_async_at(void* to, const U4& w, u64* b, u32 rank) {
  const char* what = "store_async16_at";
  const u32 offset = offset_of(to, 16, 16, what), at = offset_of(b, 8, 8, what);
  Block& target = peer(rank, what);
  Barrier& barrier = fenced_barrier(target, at, what);
  if (barrier.bytes - barrier.coming < 16)
    fail("%s: the mbarrier at shared+%u of block %u expects no more: %lld bytes are announced and not there, %lld on their way", what, at, target.index,
         static_cast<long long>(barrier.bytes), static_cast<long long>(barrier.coming));
  // Luck is not enough: the sender must have been told.
  if (!knows(*barrier.announcer, barrier.announced))
    fail("%s: the bytes were announced by thread %u of block %u, and no barrier lies between", what, barrier.announcer->index, target.index);
  begin_landing(target, offset, 16, what);
  std::vector<u8> bytes(16);
  std::memcpy(bytes.data(), &w, 16);
  set_out({&target, at, 16, {{offset, std::move(bytes)}}, true}, barrier);
}

void tensor_prefetch(const TensorMap* m) { box_of(m, "tensor_prefetch"); }
void tensor_prefetch_box(const TensorMap* m) { box_of(m, "tensor_prefetch_box"); }

void tensor_load(void* to, const TensorMap* m, u64* b, const int (&at)[4], u32 mask) {
  const char* what = mask == ALONE ? "tensor_load" : "tensor_load_multicast";
  const TensorBox& box = box_of(m, what);
  const u32 start = place_of(box, to, what), bytes = bytes_of(box);
  std::vector<u8> image(bytes, 0);
  each_element(box, start, at, [&](u32 offset, u64 address) {
    if (offset < start || offset + box.element > start + bytes)
      fail("%s: the swizzle of %u bytes carries elements out of the box at shared+%u, which is not aligned for it", what, box.swizzle, start);
    if (address != 0) std::memcpy(image.data() + (offset - start), global(reinterpret_cast<void*>(address), box.element, box.element, false, what), box.element);
  });
  issue({{start, std::move(image)}}, b, mask, what);
}

// ---- Stores ------------------------------------------------------------------------------------------------------------

namespace {
void carry_out(Block& b, const std::vector<StorePiece>& pieces) {
  for (const StorePiece& piece : pieces) {
    if (piece.to != nullptr) std::memcpy(piece.to, b.shared + piece.offset, piece.bytes);
  }
}
}  // namespace

void tensor_store(const TensorMap* m, const void* from, const int (&at)[4]) {
  const char* what = "tensor_store";
  const TensorBox& box = box_of(m, what);
  const u32 start = place_of(box, from, what), bytes = bytes_of(box);
  Thread& t = self();
  begin_reading(*t.block, start, bytes, what);
  std::vector<StorePiece> pieces{{start, bytes, nullptr}};  // what is read, all of it
  each_element(box, start, at, [&](u32 offset, u64 address) {
    if (offset < start || offset + box.element > start + bytes)
      fail("%s: the swizzle of %u bytes reads elements outside of the box at shared+%u, which is not aligned for it", what, box.swizzle, start);
    if (address == 0) return;
    u8* to = global(reinterpret_cast<void*>(address), box.element, box.element, true, what);
    mark_global(to, box.element, what);
    pieces.push_back({offset, box.element, to});
  });
  if (!machine.launch->late) carry_out(*t.block, pieces);
  t.stores_open.insert(t.stores_open.end(), pieces.begin(), pieces.end());
}

void bulk_commit() {
  self().stores.push_back(std::move(self().stores_open));
  self().stores_open.clear();
}

void bulk_wait_read(u32 pending) {
  Thread& t = self();
  for (; t.stores.size() > pending; t.stores.pop_front()) {
    if (machine.launch->late) carry_out(*t.block, t.stores.front());
    for (const StorePiece& piece : t.stores.front())
      if (piece.to == nullptr) end_reading(*t.block, piece.offset, piece.bytes);
  }
}

// ---- Ends --------------------------------------------------------------------------------------------------------------

void check_finished(const Thread& t) {
  if (!t.stores_open.empty()) fail("the thread ends with a tensor_store that was not committed");
  for (const auto& group : t.stores)
    if (!group.empty()) fail("the thread ends while a tensor_store still reads its shared memory: bulk_wait_read is missing");
  if (!t.products_open.empty()) fail("the thread ends with a wgmma that was not committed");
  for (const auto& group : t.products)
    if (!group.empty()) fail("the thread ends while a wgmma is under way: wgmma_wait is missing");
}

void check_block_finished(const Block& b) {
  for (const Load& load : machine.loads)
    if (load.block == &b) fail("block %u ends while the copy engine or another block still writes to it", b.index);
  for (const auto& [offset, barrier] : b.barriers)
    if (barrier.bytes != 0)
      fail("block %u ends while phase %u of the mbarrier at shared+%u lacks %lld bytes", b.index, barrier.phase, offset, static_cast<long long>(barrier.bytes));
}

}  // namespace ks::emulated
