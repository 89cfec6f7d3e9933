"""Memory: what an engine may use, and how much of it is left for keys and values once the weights are in place."""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

# Share of the machine's or the container's memory, without a memory_limit; the rest is for Python and the program.
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes an engine takes at most. K/V is the arena that all requests under way share."""

    limit_bytes: int
    weight_bytes: int
    workspace_bytes: int  # of a step with as many positions as may ever be in one
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
    ) -> MemoryPlan:
        """The plan under `limit`, or by default under nine tenths of `total_bytes`; K/V never gets more than
        `most_kv_bytes`.

        Raises ConfigError, with the numbers, if `limit` does not leave `least_kv_bytes`.
        """
        fixed = weight_bytes + workspace_bytes
        if limit is None:
            # Address space only: a machine that is short of memory is found out when a request is admitted.
            limit = max(int(_SHARE * total_bytes), fixed + least_kv_bytes)
        elif limit < fixed + least_kv_bytes:
            raise ConfigError(
                f"memory_limit: expected at least {fixed + least_kv_bytes} bytes ({weight_bytes} of weights, "
                f"{workspace_bytes} to work in, {least_kv_bytes} of keys and values), got {limit}",
                param="memory_limit",
                hint="a smaller max_num_batched_tokens needs less to work in",
            )
        return cls(limit, weight_bytes, workspace_bytes, min(limit - fixed, most_kv_bytes))


def machine_bytes() -> int:
    """Memory of the machine, or of the container or address space if that is limited to less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_cgroup_limits()]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            sizes.append(soft // 2)  # of address space much is taken already
    return min(sizes)


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
