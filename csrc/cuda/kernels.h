// The ops of the CUDA table, see ops/ops.h for their contracts. One file each; <op>.cuh holds its kernels, which the
// host imitation runs too.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

// Weights on the device are rows of outputs, in the order of the checkpoint, each row padded with zeros to a multiple
// of 16 bytes; `paired` ones alternate: 8 rows of the first matrix, 8 of the second, both padded to whole eights.
//   float32, bfloat16  values
//   int8, float8       bytes (int8 signed), then all scales, float32
//   int4               two values in a byte, each plus 8, the even column in the low half; then the scales of each row,
//                      float32, one for 32 columns, a multiple of 4 of them
std::int64_t packed_bytes(const PackedWeight& form);
bool pack(Stream stream, const StoredWeight& weight, const PackedWeight& form, void* packed);
std::int64_t packed_row_bytes(const PackedWeight& form);
bool multiplies(DType rows, DType weight);
void matmul(Stream stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out);
void matmul_swiglu(Stream stream, ConstTensor x, const PackedWeight& weight, Tensor out);
double measure_peak(Stream stream, DType dtype);

void embed(Stream stream, const std::int32_t* tokens, ConstTensor table, Tensor out);
void rms_norm(Stream stream, ConstTensor x, ConstTensor weight, float eps, Tensor out);
void keep_rows(Stream stream, const std::int32_t* rows, std::int64_t num_kept, Tensor x);
void quantize(Stream stream, ConstTensor x, Tensor out);
void rope(Stream stream, ConstTensor x, ConstTensor angles, const std::int32_t* positions, std::int64_t head_dim,
          Tensor out);
void rope_kv_write(Stream stream, ConstTensor kv, ConstTensor angles, const std::int32_t* positions, HeadShape shape,
                   DType dtype, const RowSpan* spans, std::int64_t num_spans);
void rope_kvq(Stream stream, ConstTensor kvq, ConstTensor angles, const std::int32_t* positions, HeadShape shape,
              const RowSpan* spans, std::int64_t num_spans, Tensor out);
void attention(Stream stream, ConstTensor q, HeadShape shape, const RowSpan* spans, std::int64_t num_spans, Tensor out);

void candidates(Stream stream, ConstTensor hidden, const PackedWeight& head, const SamplingRule* rules,
                std::int64_t num_rules, const CandidateRow* rows, std::int64_t num_rows, Candidate* out,
                std::int64_t most, Alternative* alternatives);
void commit(Stream stream, Candidate* candidates, std::int64_t num_candidates, const CommitGroup* groups,
            std::int64_t num_groups, std::int64_t* chosen);

void finish(Stream stream);

}  // namespace llada::cuda
