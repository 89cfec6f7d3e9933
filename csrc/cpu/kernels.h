// The functions of one CPU table, see ops/ops.h for their contracts. Included with LLADA_TABLE defined.
#pragma once

#include "ops/ops.h"

namespace llada::cpu::LLADA_TABLE {

std::int64_t packed_bytes(const PackedWeight& form);
bool pack(Stream stream, const StoredWeight& weight, const PackedWeight& form, void* packed);
void embed(Stream stream, const std::int32_t* tokens, ConstTensor table, Tensor out);
void rms_norm(Stream stream, ConstTensor x, ConstTensor weight, float eps, Tensor out);
void quantize(Stream stream, ConstTensor x, Tensor out);
void matmul(Stream stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out);
void matmul_swiglu(Stream stream, ConstTensor x, const PackedWeight& weight, Tensor out);
void rope(Stream stream, ConstTensor x, ConstTensor angles, const std::int32_t* positions, std::int64_t head_dim,
          Tensor out);
void rope_kv_write(Stream stream, ConstTensor kv, ConstTensor angles, const std::int32_t* positions, HeadShape shape,
                   DType dtype, const RowSpan* spans, std::int64_t num_spans);
void attention(Stream stream, ConstTensor q, HeadShape shape, const RowSpan* spans, std::int64_t num_spans, Tensor out);
void candidates(Stream stream, ConstTensor hidden, const PackedWeight& head, const SamplingRule* rules,
                std::int64_t num_rules, const CandidateRow* rows, std::int64_t num_rows, Candidate* out,
                std::int64_t most, Alternative* alternatives);
double measure_peak(Stream stream, DType dtype);

}  // namespace llada::cpu::LLADA_TABLE
