"""Optimisers and learning-rate schedules.

AdamW for everything, or Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) for the matrices of the blocks
and AdamW for embedding, head and norms. A schedule is a pure function of the step: nothing to save.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from training.config import TrainConfig
from training.distributed import whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steep at zero, singular values end in about 0.7 .. 1.2


def orthogonalize(matrix: Tensor, *, steps: int = 5, eps: float = 1e-7, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About U V^T of matrix = U S V^T, by Newton-Schulz in `dtype`. matrix: (rows, columns), any type."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype, copy=True)
    x = x.T if tall else x  # (short, long)
    x.div_(x.norm().clamp(min=eps))  # spectral norm at most 1
    for _ in range(steps):
        gram = x @ x.T  # (short, short)
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon's arithmetic, right for sharded matrices too.

    Momentum belongs to each rank's rows; the direction needs the whole matrix. Matrices are gathered, as many at a time
    as there are ranks; each rank orthogonalises one of them and broadcasts it, so no rank repeats another's work.
    `dtype`: of Newton-Schulz; float32 where runs on different numbers of ranks are to agree closely.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no use of a closure
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            # As many at a time as there are ranks: what is whole at once stays small.
            width = dist.get_world_size() if any(isinstance(matrix, DTensor) for matrix in matrices) else 1
            for start in range(0, len(matrices), width):
                some = matrices[start : start + width]
                for matrix, direction in zip(some, self.directions(some, group["momentum"]), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
                    matrix.add_(direction, alpha=-group["lr"] * scale)

    def directions(self, matrices: list[nn.Parameter], momentum: float) -> list[Tensor]:
        """One orthogonal direction per matrix, sharded as the matrix is. At most as many matrices as ranks."""
        gathered = []
        for matrix in matrices:
            gradient, state = matrix.grad, self.state[matrix]
            assert gradient is not None  # `step` chose those that have one
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            gathered.append(whole(gradient.lerp(buffer, momentum)))  # Nesterov
        if not isinstance(matrices[0], DTensor):
            return [orthogonalize(update, dtype=self.dtype) for update in gathered]
        rank, results = dist.get_rank(), []
        for owner, update in enumerate(gathered):
            mine = orthogonalize(update, dtype=self.dtype).contiguous() if owner == rank else update.to(self.dtype)
            results.append(mine)
        for owner, (matrix, result) in enumerate(zip(matrices, results, strict=True)):
            dist.broadcast(result, src=owner)
            sharded = cast("DTensor", matrix)
            results[owner] = distribute_tensor(result, sharded.device_mesh, sharded.placements, src_data_rank=None)
        return results


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW alone, or Muon for the matrices of the blocks and AdamW for the rest. Frozen parameters are left out.

    Weight decay is for matrices, never for vectors. Each group's `peak_lr` is what the schedule multiplies.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [p for name, p in named if p.dim() == 2 and ".blocks." in name]
    tables = [p for name, p in named if p.dim() == 2 and ".blocks." not in name]
    vectors = [p for _, p in named if p.dim() < 2]
    if config.matrix_lr is None:
        tables = matrices + tables
    groups = [{"params": tables, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True))
    if config.matrix_lr is not None and matrices:
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        optimizers.append(Muon(matrices, lr=config.matrix_lr, weight_decay=config.weight_decay, dtype=dtype))
    if not optimizers:
        raise ValueError("expected a model with parameters to train, got one whose parameters are all frozen")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """What the peak learning rates are multiplied with in step `step`, counted from 0; in (0, 1].

    `wsd`: linear warm-up, constant, linear to zero over the last `decay_share` of the steps.
    `wsd_llada` (arXiv 2502.09992, section 2.2): warm-up; constant; from `drop_at` of the steps on, `drop` of the
    peak; over the last `decay_share`, linear from there to `final` of the peak. LLaDA 8B: 4e-4 until 1.2 T of 2.3 T
    tokens, then 1e-4, and 1e-4 to 1e-5 over the last 0.3 T: drop_at 0.52, drop 0.25, decay_share 0.13, final 0.025.
    `cosine`: warm-up, then half a cosine from the peak to `final` of it.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        done = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return warm * (config.final + (1 - config.final) * (1 + math.cos(math.pi * min(1.0, done))) / 2)
    decay_steps = config.decay_share * config.steps
    left = min(1.0, (config.steps - step) / decay_steps) if decay_steps else 1.0
    if config.schedule == "wsd":
        return warm * left
    level = config.drop if step >= config.drop_at * config.steps else 1.0
    return warm * (level if left == 1.0 else config.final + (level - config.final) * left)


def set_learning_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
