"""How much memory something took: the peak of the resident set while it ran, above what was resident before."""

import contextlib
import ctypes
import gc
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """`num_bytes` after the block, None where the kernel does not tell. Packages loaded meanwhile count."""

    def __enter__(self) -> "PeakMemory":
        self.num_bytes: int | None = None
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # or memory that others have left would serve this one for nothing
        self._before = _resident("VmRSS")
        try:
            CLEAR.write_text("5")  # the peak begins anew
        except OSError:
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        peak = _resident("VmHWM")
        if self._before is not None and peak is not None:
            self.num_bytes = max(0, peak - self._before)


def _resident(name: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None
