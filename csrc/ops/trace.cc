#include "ops/trace.h"

#include <time.h>

#include <algorithm>
#include <cstddef>

namespace llada {
namespace {

std::int64_t read(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return std::int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
}

Trace::Time now() { return {read(CLOCK_MONOTONIC), read(CLOCK_PROCESS_CPUTIME_ID)}; }

// The name of an op as a template argument; `text` lives as long as the program.
struct Name {
  char text[16] = {};
  template <std::size_t N>
  consteval Name(const char (&literal)[N]) {  // NOLINT: Timed<"matmul", ...>
    static_assert(N <= sizeof text);
    std::copy_n(literal, N, text);
  }
};

// Timed<"matmul", &Ops::matmul>::call has the signature of matmul.
template <Name kName, auto kOp>
struct Timed;
template <Name kName, class Result, class... Arguments, Result (*Ops::*kOp)(Stream, Arguments...)>
struct Timed<kName, kOp> {
  static Result call(Stream stream, Arguments... arguments) {
    for (int i = 1; i < stream.trace->repeats(); ++i) {
      const TimedScope scope(stream.trace, kName.text);
      (stream.trace->table().*kOp)(stream, arguments...);
    }
    const TimedScope scope(stream.trace, kName.text);
    return (stream.trace->table().*kOp)(stream, arguments...);
  }
};

}  // namespace

void Trace::add(const char* name, Time time) {
  for (Entry& entry : entries_) {
    if (entry.name != name) continue;
    ++entry.calls;
    entry.time.wall_ns += time.wall_ns;
    entry.time.cpu_ns += time.cpu_ns;
    return;
  }
  entries_.push_back({name, 1, time});
}

TimedScope::TimedScope(Trace* trace, const char* name)
    : trace_(trace), name_(name), begin_(trace != nullptr ? now() : Trace::Time()) {}

TimedScope::~TimedScope() {
  if (trace_ == nullptr) return;
  const Trace::Time end = now();
  trace_->add(name_, {end.wall_ns - begin_.wall_ns, end.cpu_ns - begin_.cpu_ns});
}

Ops timed(const Ops& table) {
  Ops out = table;
  out.embed = Timed<"embed", &Ops::embed>::call;
  out.rms_norm = Timed<"rms_norm", &Ops::rms_norm>::call;
  out.keep_rows = Timed<"keep_rows", &Ops::keep_rows>::call;
  out.quantize = Timed<"quantize", &Ops::quantize>::call;
  out.matmul = Timed<"matmul", &Ops::matmul>::call;
  out.matmul_swiglu = Timed<"matmul_swiglu", &Ops::matmul_swiglu>::call;
  out.rope = Timed<"rope", &Ops::rope>::call;
  out.rope_kv_write = Timed<"rope_kv_write", &Ops::rope_kv_write>::call;
  if (table.rope_kvq != nullptr) out.rope_kvq = Timed<"rope_kvq", &Ops::rope_kvq>::call;
  out.attention = Timed<"attention", &Ops::attention>::call;
  out.candidates = Timed<"candidates", &Ops::candidates>::call;
  out.commit = Timed<"commit", &Ops::commit>::call;
  if (table.device != nullptr) out.finish = Timed<"finish", &Ops::finish>::call;
  return out;
}

}  // namespace llada
