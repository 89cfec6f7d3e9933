"""Memory: what an engine may use, and how much of it is left for keys and values once the weights are in place."""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, OutOfMemoryError

# Without a memory_limit the engine takes at most this share of the machine's memory, and so much must be left
# beside what the process has already, for Python and the program.
_SHARE = 0.9
_LEFT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes an engine takes at most. K/V is the arena that all requests under way share."""

    limit_bytes: int
    weight_bytes: int
    workspace_bytes: int  # of a step with as many positions as may ever be in one, and of what Python decides
    kv_bytes: int

    @classmethod
    def of(
        cls,
        limit: int | None,
        *,
        total_bytes: int,
        weight_bytes: int,
        workspace_bytes: int,
        least_kv_bytes: int,
        most_kv_bytes: int,
        process_bytes: int = 0,
    ) -> MemoryPlan:
        """The plan under `limit`, or by default under nine tenths of `total_bytes`, less if the process has taken more
        than a tenth already (`process_bytes`); K/V never gets more than `most_kv_bytes`.

        Raises ConfigError, with the numbers, if `limit` does not leave `least_kv_bytes`.
        """
        fixed = weight_bytes + workspace_bytes
        if limit is None:
            # Address space only: a machine that is short of memory is found out when a request is admitted.
            most = min(int(_SHARE * total_bytes), total_bytes - process_bytes - _LEFT_BYTES * (process_bytes > 0))
            limit = max(most, fixed + least_kv_bytes)
        elif limit < fixed + least_kv_bytes:
            raise ConfigError(
                f"memory_limit: expected at least {fixed + least_kv_bytes} bytes ({weight_bytes} of weights, "
                f"{workspace_bytes} to work in, {least_kv_bytes} of keys and values), got {limit}",
                param="memory_limit",
                hint="a smaller max_num_batched_tokens needs less to work in",
            )
        return cls(limit, weight_bytes, workspace_bytes, min(limit - fixed, most_kv_bytes))


def check_weights(weight_bytes: int) -> None:
    """Raises OutOfMemoryError for weights that neither the machine nor the container could ever hold."""
    total = min(_physical_sizes())
    if weight_bytes > total:
        raise OutOfMemoryError(
            f"the model's weights take {weight_bytes} bytes in this compute type, and this machine or container has "
            f"{total}",
            hint="a smaller compute_type, int8 or int4",
        )


def machine_bytes() -> int:
    """Memory of the machine, or of the container or address space if that is limited to less."""
    sizes = _physical_sizes()
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            sizes.append(soft // 2)  # of address space much is taken already
    return min(sizes)


def resident_bytes(pid: str = "self") -> int:
    """Resident memory of a process; 0 where the system does not say."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return int(fields["VmRSS"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def _physical_sizes() -> list[int]:
    return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_cgroup_limits()]


def _cgroup_limits() -> list[int]:
    """Limits of this process's groups, the outermost included: in a container the own group is mounted as the root."""
    root = Path("/sys/fs/cgroup")
    limits = []
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in groups:
        path = Path(line.split(":", 2)[-1].lstrip("/"))
        for group in (path, *path.parents):
            for name in (root / group / "memory.max", root / "memory" / group / "memory.limit_in_bytes"):
                try:
                    text = name.read_text().strip()
                except OSError:
                    continue
                if re.fullmatch(r"\d+", text):
                    limits.append(int(text))
    return limits
