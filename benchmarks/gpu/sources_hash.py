"""The hash of everything that is compiled: the same as cmake/SourceHashes.cmake puts into the modules."""

import hashlib
from pathlib import Path


def sources_hash(root: Path) -> str:
    """The hash of the checkout at `root`, 16 hexadecimal digits."""
    paths = [path for path in (root / "csrc").rglob("*") if path.is_file()]
    paths += [*(root / "cmake").rglob("*.cmake"), root / "CMakeLists.txt"]
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    listed = "".join(f"{name} {hashlib.sha256((root / name).read_bytes()).hexdigest()}\n" for name in names)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
