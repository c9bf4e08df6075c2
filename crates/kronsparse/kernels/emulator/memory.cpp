// Shared and global memory: bounds, alignment, and that every read comes after the write it means, and every write after the
// reads of what was there before, in the order that barriers give and not by luck.
#include "machine.h"

namespace ks::emulated {

u8* shared_memory() { return block().shared; }

namespace {
bool aligned(const void* p, u32 to) { return reinterpret_cast<std::uintptr_t>(p) % to == 0; }

std::string who(const Cell& c, u32 agent, u32 clock, u32 lane) {
  for (auto& b : machine.blocks) {
    for (auto& [offset, barrier] : b->barriers)
      if (barrier.agent == agent) return text("asynchronous work for phase %u of the mbarrier at shared+%u of block %u", clock, offset, b->index);
    for (u32 w = 0; w < b->warps.size(); w++)
      if (b->warps[w].agent == agent) return text("thread %u (warp %u, lane %u) of block %u", w * LANES + lane, w, lane, b->index);
  }
  (void)c;
  return "somebody";
}

bool seen(Block& b, u32 agent, u32 clock, u32 lane) {
  const Thread& t = self();
  const Warp& w = t.block->warps[t.warp];
  if (t.block == &b && agent == w.agent) return lane == t.lane || clock < t.synced;
  return t.seen.covers(agent, clock, lane);
}

Cell& cell(Block& b, u32 at) { return b.cells[at / 2]; }

void check_reader(Block& b, const Cell& c, const Reader& r, u32 at, const char* what) {
  for (u32 lane = 0; lane < LANES; lane++)
    if ((r.mask >> lane & 1) && !seen(b, r.agent, r.clock, lane))
      fail("%s: shared+%u was read by %s, and no barrier lies between", what, at, who(c, r.agent, r.clock, lane).c_str());
}

void check_last_write(Block& b, const Cell& c, u32 at, const char* what) {
  if (c.flags & IS_BARRIER) fail("%s: shared+%u belongs to an mbarrier", what, at);
  if (c.flags & LANDING) fail("%s: shared+%u is being written by an asynchronous copy that was not waited for", what, at);
  if ((c.flags & WRITTEN) && !seen(b, c.write_agent, c.write_clock, c.write_lane))
    fail("%s: shared+%u was written by %s, and no barrier lies between", what, at, who(c, c.write_agent, c.write_clock, c.write_lane).c_str());
}

void note_read(Block& b, Cell& c) {
  Thread& t = self();
  const Warp& w = t.block->warps[t.warp];
  const u32 bit = 1u << t.lane;
  auto add = [&](u32 agent, u32& clock, u32& mask) {
    if (agent != w.agent) return false;
    if (clock == w.clock) mask |= bit;
    else if (clock < w.clock) clock = w.clock, mask = bit;
    return true;
  };
  if (c.read_mask == 0) {
    c.read_agent = static_cast<u16>(w.agent);
    c.read_clock = w.clock;
    c.read_mask = bit;
    return;
  }
  if (add(c.read_agent, c.read_clock, c.read_mask)) return;
  if (c.more == 0) {
    b.readers.emplace_back();
    c.more = static_cast<u32>(b.readers.size());
  }
  std::vector<Reader>& more = b.readers[c.more - 1];
  for (Reader& r : more)
    if (add(r.agent, r.clock, r.mask)) return;
  more.push_back({w.agent, w.clock, bit});
}

void forget_readers(Block& b, Cell& c) {
  c.read_mask = 0;
  if (c.more != 0) b.readers[c.more - 1].clear();
}
}  // namespace

u32 offset_of(const void* p, u32 bytes, u32 alignment, const char* what) {
  const i64 offset = static_cast<const u8*>(p) - block().shared;
  const u32 size = machine.launch->shared_bytes;
  if (offset < 0 || offset + i64(bytes) > i64(size))
    fail("%s: %u bytes at shared+%lld, out of bounds: the block has %u bytes", what, bytes, static_cast<long long>(offset), size);
  if (offset % alignment != 0) fail("%s: shared+%lld is not a multiple of %u", what, static_cast<long long>(offset), alignment);
  return static_cast<u32>(offset);
}

u32 shared_address(const void* p) { return SHARED_BASE + offset_of(p, 1, 1, "shared_address"); }

void check_read(Block& b, u32 offset, u32 bytes, const char* what) {
  for (u32 at = offset; at < offset + bytes; at += 2) check_last_write(b, cell(b, at), at, what);
}

void check_write(Block& b, u32 offset, u32 bytes, const char* what) {
  for (u32 at = offset; at < offset + bytes; at += 2) {
    const Cell& c = cell(b, at);
    check_last_write(b, c, at, what);
    if (c.reading != 0) fail("%s: shared+%u is being read asynchronously (wgmma or a bulk store), and that was not waited for", what, at);
    if (c.read_mask != 0) check_reader(b, c, {c.read_agent, c.read_clock, c.read_mask}, at, what);
    if (c.more != 0)
      for (const Reader& r : b.readers[c.more - 1]) check_reader(b, c, r, at, what);
  }
}

void mark_write(Block& b, u32 offset, u32 bytes) {
  const Thread& t = self();
  const Warp& w = t.block->warps[t.warp];
  for (u32 at = offset; at < offset + bytes; at += 2) {
    Cell& c = cell(b, at);
    c.flags = WRITTEN | ORDINARY;
    c.write_agent = static_cast<u16>(w.agent);
    c.write_clock = w.clock;
    c.write_lane = static_cast<u8>(t.lane);
    c.write_fence = t.fences;
    c.writer = t.index;
    forget_readers(b, c);
  }
}

void begin_landing(Block& b, u32 offset, u32 bytes, const char* what) {
  check_write(b, offset, bytes, what);
  for (u32 at = offset; at < offset + bytes; at += 2) {
    cell(b, at).flags |= LANDING;
    forget_readers(b, cell(b, at));
  }
}

void end_landing(Block& b, u32 offset, u32 bytes) {
  for (u32 at = offset; at < offset + bytes; at += 2) cell(b, at).flags &= static_cast<u8>(~LANDING);
}

void mark_landed(Block& b, u32 offset, u32 bytes, u32 agent, u32 clock, bool sent) {
  for (u32 at = offset; at < offset + bytes; at += 2) {
    Cell& c = cell(b, at);
    c.flags = sent ? WRITTEN | SENT : WRITTEN;
    c.write_agent = static_cast<u16>(agent);
    c.write_clock = clock;
    c.write_lane = 0;
  }
}

void begin_reading(Block& b, u32 offset, u32 bytes, const char* what) {
  check_read(b, offset, bytes, what);
  check_fenced(b, offset, bytes, what);
  for (u32 at = offset; at < offset + bytes; at += 2) cell(b, at).reading++;
}

void end_reading(Block& b, u32 offset, u32 bytes) {
  for (u32 at = offset; at < offset + bytes; at += 2) {
    cell(b, at).reading--;
    note_read(b, cell(b, at));
  }
}

void check_fenced(Block& b, u32 offset, u32 bytes, const char* what) {
  for (u32 at = offset; at < offset + bytes; at += 2) {
    const Cell& c = cell(b, at);
    // Sent bytes are ordinary ones for the copy engine and the tensor cores; no kernel hands them on, so no fence is known for it.
    if (c.flags & SENT) fail("%s: shared+%u was written by store_async16_at, after which only ordinary loads and stores are emulated", what, at);
    if ((c.flags & ORDINARY) && b.threads[c.writer].fences == c.write_fence)
      fail("%s: shared+%u was written by thread %u with an ordinary store, and that thread has not called fence_async since", what, at, c.writer);
  }
}

void fence_async() { self().fences++; }

void load_shared(const void* from, void* to, u32 bytes) {
  const char* what = "load_shared";
  const u32 offset = offset_of(from, bytes, bytes, what);
  Block& b = block();
  check_read(b, offset, bytes, what);
  for (u32 at = offset; at < offset + bytes; at += 2) note_read(b, cell(b, at));
  std::memcpy(to, from, bytes);
}

void store_shared(void* to, const void* from, u32 bytes) {
  const char* what = "store_shared";
  const u32 offset = offset_of(to, bytes, bytes, what);
  check_write(block(), offset, bytes, what);
  mark_write(block(), offset, bytes);
  std::memcpy(to, from, bytes);
}

u8* global(const void* p, u64 bytes, u32 alignment, bool write, const char* what) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  const Buffer* nearest = nullptr;
  u64 distance = ~0ull;
  for (Buffer& b : machine.launch->buffers) {
    const auto base = reinterpret_cast<std::uintptr_t>(b.base);
    if (address >= base && address + bytes <= base + b.bytes) {
      if (!aligned(p, alignment)) fail("%s: %s+%llu lies at an address that is not a multiple of %u", what, b.name.c_str(), static_cast<u64>(address - base), alignment);
      if (machine.launch->overlaps && !self().waited && b.name != "w" && b.name != "bias")
        fail("%s: %s is touched before wait_for_previous: another kernel may not be done with it", what, b.name.c_str());
      if (write && !b.writable) fail("%s: writes %llu bytes at %s+%llu, which is only for reading", what, bytes, b.name.c_str(), static_cast<u64>(address - base));
      if (!write && b.writable) fail("%s: reads %llu bytes at %s+%llu, which this launch writes", what, bytes, b.name.c_str(), static_cast<u64>(address - base));
      return static_cast<u8*>(const_cast<void*>(p));
    }
    const u64 far = address < base ? base - address : address + bytes - base - b.bytes;
    if (far < distance) distance = far, nearest = &b;
  }
  if (nearest == nullptr) fail("%s: %llu bytes at %p, and there is no global memory at all", what, bytes, p);
  fail("%s: %llu bytes at %s%+lld, out of bounds: it has %llu bytes", what, bytes, nearest->name.c_str(),
       static_cast<long long>(address - reinterpret_cast<std::uintptr_t>(nearest->base)), nearest->bytes);
}

void wait_for_previous() { self().waited = true; }

void mark_global(const u8* p, u64 bytes, const char* what) {
  for (Buffer& b : machine.launch->buffers) {
    if (!b.writable || p < b.base || p >= b.base + b.bytes) continue;
    for (u64 at = p - b.base; at < p - b.base + bytes; at++) {
      if (b.written[at]) fail("%s: %s+%llu is written a second time", what, b.name.c_str(), at);
      b.written[at] = 1;
    }
  }
}

void load_global(const void* from, void* to, u32 bytes) { std::memcpy(to, global(from, bytes, bytes, false, "load_global"), bytes); }

void store_global(void* to, const void* from, u32 bytes) {
  u8* at = global(to, bytes, bytes, true, "store_global");
  mark_global(at, bytes, "store_global");
  std::memcpy(at, from, bytes);
}

// cp.async. Early: the bytes arrive at once. Late: at the wait. In both cases nobody may look before the wait.
void copy_async(void* to, const void* from, u32 bytes, bool valid) {
  const char* what = "copy_async";
  CopyPiece piece{offset_of(to, bytes, bytes, what), bytes, {}};
  if (reinterpret_cast<std::uintptr_t>(from) % bytes != 0) fail("%s: the address in global memory is not a multiple of %u", what, bytes);
  if (valid) std::memcpy(piece.data, global(from, bytes, bytes, false, what), bytes);
  begin_landing(block(), piece.offset, bytes, what);
  if (!machine.launch->late) std::memcpy(to, piece.data, bytes);
  self().copies_open.push_back(piece);
}

void copy_commit() {
  self().copies.push_back(std::move(self().copies_open));
  self().copies_open.clear();
}

void copy_wait(u32 pending) {
  Thread& t = self();
  for (; t.copies.size() > pending; t.copies.pop_front()) {
    for (const CopyPiece& piece : t.copies.front()) {
      end_landing(*t.block, piece.offset, piece.bytes);
      mark_write(*t.block, piece.offset, piece.bytes);
      if (machine.launch->late) std::memcpy(t.block->shared + piece.offset, piece.data, piece.bytes);
    }
  }
}

}  // namespace ks::emulated
