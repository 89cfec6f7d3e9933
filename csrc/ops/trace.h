// Where the time of a step goes: a table whose ops add up their calls, their wall time and the processor time that the
// process spent meanwhile. This table stands in for the plain one only while somebody asks: otherwise timing costs
// nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace llada {

// What one engine has spent by op. Only the thread that drives the engine adds to it.
class Trace {
 public:
  struct Time {
    std::int64_t wall_ns = 0;
    std::int64_t cpu_ns = 0;
  };
  struct Entry {
    const char* name;
    std::int64_t calls;
    Time time;
  };

  // `table` must live as long as the trace. Each op runs `repeats` times for one call: a benchmark of single ops.
  explicit Trace(const Ops& table, int repeats = 1) : table_(table), repeats_(repeats) {}

  const Ops& table() const { return table_; }
  int repeats() const { return repeats_; }
  const std::vector<Entry>& entries() const { return entries_; }
  void clear() { entries_.clear(); }

  // Names are literals and told apart by address.
  void add(const char* name, Time time);

 private:
  const Ops& table_;
  const int repeats_;
  std::vector<Entry> entries_;
};

// The table in which each op of a step runs that of stream.trace->table(), which must be there, and times it.
Ops timed(const Ops& table);

// Adds the time of a scope to the trace, if there is one.
class TimedScope {
 public:
  TimedScope(Trace* trace, const char* name);
  ~TimedScope();
  TimedScope(const TimedScope&) = delete;
  TimedScope& operator=(const TimedScope&) = delete;

 private:
  Trace* const trace_;
  const char* const name_;
  const Trace::Time begin_;
};

}  // namespace llada
