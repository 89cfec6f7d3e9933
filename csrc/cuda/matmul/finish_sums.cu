#include "cuda/matmul/finish_sums.cuh"

namespace llada::cuda {

void finish_sums(const MatmulInput& input, const MatmulOutput& out, const float* sums, bool row_scales,
                 cudaStream_t stream) {
  constexpr std::int64_t kMostRows = 65535;  // of a dimension of the grid
  const std::int64_t num_pairs = out.end == MatmulEnd::kSwiglu ? input.num_outputs / 4 : input.num_outputs / 2;
  const dim3 grid(static_cast<unsigned>((num_pairs + kFinishThreads - 1) / kFinishThreads),
                  static_cast<unsigned>(input.num_rows < kMostRows ? input.num_rows : kMostRows),
                  static_cast<unsigned>((input.num_rows + kMostRows - 1) / kMostRows));
  launch("finish", finish_kernel, grid, kFinishThreads, 0, stream, input, out, sums, row_scales ? 1 : 0);
}

}  // namespace llada::cuda
