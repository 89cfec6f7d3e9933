#include <algorithm>
#include <type_traits>
#include <vector>

#include "cuda/candidates.cuh"
#include "cuda/device/session.h"
#include "cuda/kernels.h"

namespace llada::cuda {
namespace {

// Rows of a launch: their states take 62 KiB each with 126,464 tokens, with lists of 20 alternatives 217 KiB.
constexpr std::int64_t kMostRows = 1024;
constexpr std::int64_t kMostRankedRows = 256;

constexpr std::int64_t kSharedAnywhere = 99 << 10;  // that a block may ask for on any device from sm_80 on
constexpr std::int64_t kSharedOf128 = 108 << 10;    // of a tile of 128 rows

// Rows of the product and whose they are, see HeadRows.
struct Slots {
  std::vector<std::int32_t> hidden_row;  // -1: nobody's
  std::vector<std::int32_t> candidate_of;

  void add(std::int32_t row, std::int32_t candidate) {
    hidden_row.push_back(row);
    candidate_of.push_back(candidate);
  }

  // Whole tiles. A candidate and its guide don't fit into what is left of a tile? Then that stays empty.
  void assign(const CandidateRow* rows, std::int64_t num_rows, std::size_t tile_rows) {
    hidden_row.clear();
    candidate_of.clear();
    for (std::int64_t r = 0; r < num_rows; ++r) {
      const bool guided = rows[r].guide_row >= 0;
      if (guided && hidden_row.size() % tile_rows == tile_rows - 1) add(-1, -1);
      add(rows[r].hidden_row, static_cast<std::int32_t>(r));
      if (guided) add(rows[r].guide_row, -1);
    }
    while (hidden_row.size() % tile_rows != 0) add(-1, -1);
  }
};

struct HeadArgs {
  MatmulInput input;
  HeadRows head;
  Candidate* candidates;
  Alternative* alternatives;
  std::int64_t num_rows;
  std::int64_t num_chunks;
  DType rows;
  DType weight;
  std::int64_t tile_rows;
};
static_assert(std::has_unique_object_representations_v<HeadArgs>);

// The bits are the same in each of them. Rows of T at multiples of 4 bytes only, which no published model has, and
// float32, which is for tests, have one. shared_bytes: what a block may ask for on the device.
std::int64_t choose_tile_rows(const MatmulInput& input, DType rows, std::int64_t num_products,
                              std::int64_t shared_bytes) {
  if (rows == DType::kFloat32 || (rows == DType::kBFloat16 && x_alignment(input) != 16)) return 32;
  return num_products <= 32 ? 32 : num_products <= 64 || shared_bytes < kSharedOf128 ? 64 : 128;
}

template <class Operands, int kTileRows, int kXCopyBytes>
void run_tiles(const HeadArgs& args, cudaStream_t stream) {
  using Tile = HeadTile<Operands, kTileRows, kXCopyBytes>;
  static_assert(head_shared_bytes<Tile>() <= (kTileRows == 128 ? kSharedOf128 : kSharedAnywhere));
  const dim3 grid(static_cast<unsigned>(args.input.num_rows / kTileRows), static_cast<unsigned>(args.num_chunks));
  const auto kernel = args.head.most > 0 ? head_kernel<Tile, true> : head_kernel<Tile, false>;
  launch("head", kernel, grid, Tile::kThreads, head_shared_bytes<Tile>(), stream, args.input, args.head);
}

template <class Operands, int kXCopyBytes>
void run_operands(const HeadArgs& args, cudaStream_t stream) {
  if (args.tile_rows == 32) return run_tiles<Operands, 32, kXCopyBytes>(args, stream);
  if (args.tile_rows == 64) return run_tiles<Operands, 64, kXCopyBytes>(args, stream);
  run_tiles<Operands, 128, kXCopyBytes>(args, stream);
}

template <class Operands>
void run_bf16(const HeadArgs& args, cudaStream_t stream) {
  if (x_alignment(args.input) == 16) return run_operands<Operands, 16>(args, stream);
  run_tiles<Operands, 32, 4>(args, stream);
}

void run_matmul(const HeadArgs& args, cudaStream_t stream) {
  switch (args.weight) {
    case DType::kFloat32:
      return run_tiles<Float32Operands, 32, 4>(args, stream);
    case DType::kInt4:
      return run_bf16<BFloat16Int4Operands>(args, stream);
    case DType::kFloat8:
      return run_operands<Float8Operands, 16>(args, stream);
    case DType::kInt8:
      if (args.rows == DType::kInt8) return run_operands<Int8Operands, 4>(args, stream);
      return run_bf16<BFloat16Int8Operands>(args, stream);
    default:
      return run_bf16<BFloat16Operands>(args, stream);
  }
}

void run_head(const HeadArgs& args, cudaStream_t stream) {
  run_matmul(args, stream);
  const std::int64_t list_bytes = args.head.most * static_cast<std::int64_t>(sizeof(Ranked));
  launch("head_merge", merge_kernel, dim3(static_cast<unsigned>(args.num_rows)), kMergeThreads,
         kMergeThreads * (static_cast<std::int64_t>(sizeof(RowState)) + list_bytes), stream, args.head, args.num_chunks,
         args.candidates, args.alternatives);
}

}  // namespace

void candidates(Stream stream, ConstTensor hidden, const PackedWeight& head, const SamplingRule* rules,
                std::int64_t num_rules, const CandidateRow* rows, std::int64_t num_rows, const std::uint32_t* allowed,
                std::int64_t num_sets, Candidate* out, std::int64_t most, Alternative* alternatives) {
  if (num_rows == 0) return;
  Session& session = session_of(stream);
  HeadArgs args{};
  args.input = matmul_input(hidden, head);
  args.num_chunks = (head.num_out + kChunkTokens - 1) / kChunkTokens;
  args.rows = hidden.dtype;
  args.weight = head.dtype;
  args.head.rules = session.input(rules, num_rules);
  if (num_sets > 0) args.head.allowed = session.input(allowed, num_sets * set_words(head.num_out));
  const std::int64_t most_rows = std::min(num_rows, most > 0 ? kMostRankedRows : kMostRows);
  const std::int64_t num_states = most_rows * args.num_chunks;
  const std::int64_t state_bytes = num_states * static_cast<std::int64_t>(sizeof(RowState));
  const std::int64_t list_bytes = num_states * most * static_cast<std::int64_t>(sizeof(Ranked));
  args.head.states = static_cast<RowState*>(session.scratch(state_bytes + list_bytes));
  args.head.most = most;
  const CandidateRow* const device_rows = session.input(rows, num_rows);
  Candidate* const device_out = session.output(out, num_rows);
  Alternative* device_alternatives = nullptr;
  if (most > 0) {
    args.head.lists = reinterpret_cast<Ranked*>(args.head.states + num_states);
    device_alternatives = session.output(alternatives, num_rows * most);
  }
  static thread_local Slots slots;  // a step allocates nothing
  for (std::int64_t begin = 0; begin < num_rows; begin += most_rows) {
    const CandidateRow* const first = rows + begin;
    args.num_rows = std::min(num_rows - begin, most_rows);
    const std::int64_t num_products =
        args.num_rows +
        std::count_if(first, first + args.num_rows, [](const CandidateRow& r) { return r.guide_row >= 0; });
    args.tile_rows = choose_tile_rows(args.input, hidden.dtype, num_products, session.facts().shared_bytes);
    slots.assign(first, args.num_rows, static_cast<std::size_t>(args.tile_rows));
    const std::int64_t num_slots = static_cast<std::int64_t>(slots.hidden_row.size());
    args.input.row_index = session.input(slots.hidden_row.data(), num_slots);
    args.input.num_rows = static_cast<std::int32_t>(num_slots);
    args.head.candidate_of = session.input(slots.candidate_of.data(), num_slots);
    args.head.rows = device_rows + begin;
    args.candidates = device_out + begin;
    args.alternatives = most > 0 ? device_alternatives + begin * most : nullptr;
    session.push(run_head, args);
  }
}

}  // namespace llada::cuda
