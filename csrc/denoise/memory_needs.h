// The memory arithmetic, in one place: what a model takes before it is loaded, and what its steps work in.
#pragma once

#include <string>

#include "model/config.h"
#include "model/quantization.h"
#include "ops/ops.h"

namespace llada {

constexpr int kMaxThreads = 1024;

// As asked, or default_num_threads() for 0. Throws ConfigError.
int checked_num_threads(int requested);

// How a folder is to be computed, before it is.
struct ComputeOptions {
  std::string compute_type = "auto";
  std::string table;    // empty: the best of this machine
  int num_threads = 0;  // 0: default_num_threads()
};

// Bytes that an engine asks for, by what the folder's files say of themselves: only their headers are read.
struct MemoryNeeds {
  const ComputeType* compute_type;
  std::int64_t weights;
  std::int64_t workspace;  // see workspace_bytes
  std::int64_t least_kv;   // of a canvas of one position
};

// Throws as loading the model does.
MemoryNeeds memory_needs(const std::string& folder, const ComputeOptions& options, std::int64_t num_rows);

// What steps of `num_rows` positions, each a candidate, work in at most beside weights and K/V: buffers of the forward,
// states of the candidates, lists of rows, and the rotation angles of the longest canvas.
std::int64_t workspace_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops, int num_threads,
                             std::int64_t num_rows);

// Requests under way.
struct Load {
  std::int64_t length;          // positions of each canvas
  std::int64_t num_rows;        // of the largest step
  std::int64_t num_candidates;  // of these
};

// Bytes that requests come to take, term by term. No bound as `workspace_bytes` is: alternatives and the lists of the
// loop, which few requests fill, are left out.
struct Footprint {
  const ComputeType* compute_type;
  std::int64_t weights;
  std::int64_t angle_positions;
  std::int64_t angle_columns;  // of a position, float32
  std::int64_t angles;
  std::int64_t kv_positions;  // of a canvas, as they are allotted
  std::int64_t kv_bytes_per_token;
  std::int64_t kv_slot;    // of a canvas
  std::int64_t workspace;  // buffers of the forward, states and logits of the candidates
};

// Reads config.json, and for the compute type "auto" the headers of the weights. Throws as loading the model does.
Footprint footprint(const std::string& folder, const ComputeOptions& options, const Load& load);

}  // namespace llada
