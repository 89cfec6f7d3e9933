"""One process or many: start and end of the process group, and what a rank has to know.

`torchrun --nproc-per-node 8 -m training.pretrain RECIPE.toml --out DIR` joins a group (gloo on CPU, nccl and gloo on
CUDA); without torchrun the same command is one process, with no group and nothing wrapped.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

CPU = torch.device("cpu")
TIMEOUT = timedelta(minutes=30)  # a rank that waits longer than this has lost the others


@dataclass(frozen=True, slots=True)
class World:
    """This process among all: `rank` of `size`, its device, and the mesh over all ranks if there is more than one."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all ranks, float64, on the host: no wait for the device."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def sum_tensor(self, value: Tensor) -> Tensor:
        """The sum of a device tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        if self.size > 1:
            self.sum([0.0])  # over gloo, also where the devices speak nccl


def share(count: int, part: int, parts: int) -> range:
    """Part `part` of `parts` of range(count), in numpy.array_split's way: sizes differ by at most one."""
    size, extra = divmod(count, parts)
    start = part * size + min(part, extra)
    return range(start, start + size + (part < extra))


def choose_device(name: str = "auto") -> torch.device:
    """ "auto": this rank's GPU if there is one, else the CPU; or "cpu", "cuda", "cuda:1"."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: expected cpu, as this machine has no usable GPU, got {name!r}")
    return device


@contextmanager
def join(device: str = "auto") -> Iterator[World]:
    """The world as torchrun describes it in the environment; a world of one without. Leaves the group at the end."""
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield World(device=chosen)
        return
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        mesh = init_device_mesh(chosen.type, (dist.get_world_size(),), mesh_dim_names=("data",))
        yield World(dist.get_rank(), dist.get_world_size(), chosen, mesh)
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, blocks: Sequence[nn.Module], world: World, *, bf16: bool) -> None:
    """FSDP2 in place: each block is gathered when its turn comes, the rest (embedding, last norm, head) with the root.

    Gradients are averaged over ranks in float32. On CUDA with `bf16` the blocks travel in bfloat16; the residual
    stream stays float32, as under autocast in one process. On the CPU autocast alone does the rounding.
    """
    assert world.mesh is not None
    half = bf16 and world.device.type == "cuda"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fully_shard(block, mesh=world.mesh, mp_policy=policy)
    fully_shard(model, mesh=world.mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory; a plain tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; every rank must ask at once. A plain tensor is whole already."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
