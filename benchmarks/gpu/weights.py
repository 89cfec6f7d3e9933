"""The shape's random weights as a model folder, made once and found again by later stages. The 16 GB of the 8B shape go
from where they are drawn into the file through a few pinned buffers. Written, not mapped: on a RAM disk that is faster
(3.5 GB/s against 1.9 with two threads here), and a disk that is full is an error, not a signal.
"""

import errno
import json
import os
import queue
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.flight import Flight
from benchmarks.shapes import Shape
from training.model import LLaDA
from training.weights import PREFIX, WEIGHTS_FILE

UNFINISHED = WEIGHTS_FILE + ".part"
PIECE_BYTES = 64 << 20
NUM_WRITERS = 4
SPARE_BYTES = 64 << 20  # of the file system, beside the file
ELEMENT_BYTES = 2  # bfloat16


def model_folder(flight: Flight) -> Path:
    """Where `flight.shape.model(flight.device)` lies as a checkpoint. OSError where it does not fit."""
    folder = flight.scratch / f"llada-rt-{flight.shape.name}"
    folder.mkdir(parents=True, exist_ok=True)
    config = flight.shape.config.to_json("bfloat16")
    if (folder / WEIGHTS_FILE).exists() and (folder / "config.json").read_text() == config:
        return folder
    for name in (WEIGHTS_FILE, UNFINISHED):
        (folder / name).unlink(missing_ok=True)
    (folder / "config.json").write_text(config)
    header, num_bytes = header_of(flight.shape)
    free = shutil.disk_usage(folder).free
    if free < len(header) + num_bytes + SPARE_BYTES:
        needed = (len(header) + num_bytes + SPARE_BYTES) / 1e9
        raise OSError(errno.ENOSPC, f"weights of {flight.shape.name} need {needed:.2f} GB, {free / 1e9:.2f} are free")
    (folder / UNFINISHED).write_bytes(header)
    _write(flight, folder / UNFINISHED, len(header))
    (folder / UNFINISHED).rename(folder / WEIGHTS_FILE)
    return folder


def header_of(shape: Shape) -> tuple[bytes, int]:
    """What a file in the format safetensors begins with, and how many bytes of tensors follow."""
    with torch.device("meta"):
        weights = LLaDA(shape.config).state_dict()
    records, end = {}, 0
    for name, weight in weights.items():
        begin, end = end, end + ELEMENT_BYTES * weight.numel()
        records[PREFIX + name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [begin, end]}
    text = json.dumps(records, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _write(flight: Flight, path: Path, begin: int) -> None:
    carriers: queue.SimpleQueue[_Carrier] = queue.SimpleQueue()
    for _ in range(NUM_WRITERS):
        carriers.put(_Carrier(flight.device))
    written: list[Future[None]] = []

    with path.open("r+b", buffering=0) as file, ThreadPoolExecutor(NUM_WRITERS) as pool:

        def carry(piece: Tensor, at: int) -> None:
            carrier = carriers.get()
            try:
                write_at(file.fileno(), carrier.land(piece).data, at)
            finally:
                carriers.put(carrier)

        for piece, at in _pieces(flight):
            written.append(pool.submit(carry, piece, begin + at))
        for each in written:
            each.result()
    torch.cuda.empty_cache()


def write_at(file: int, data: memoryview, at: int) -> None:
    """All of it: the system may take a part at a time."""
    while data:
        taken = os.pwrite(file, data, at)
        data, at = data[taken:], at + taken


def _pieces(flight: Flight) -> Iterator[tuple[Tensor, int]]:
    """All tensors as bytes, (at most PIECE_BYTES) each, and where each goes."""
    at = 0
    for _, drawn in flight.shape.weights(flight.device):
        flight.wait()  # the writers' streams know nothing of the one that it was drawn on
        for piece in drawn.reshape(-1).view(torch.uint8).split(PIECE_BYTES):
            yield piece, at
            at += piece.numel()


class _Carrier:
    """Brings bytes from the device into memory: through a pinned buffer and a stream of its own on a GPU."""

    def __init__(self, device: str) -> None:
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        self.buffer = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) if self.stream else None

    def land(self, piece: Tensor) -> np.ndarray:
        """piece: (bytes) uint8, on the device. The same on the host, until the next call."""
        if self.stream is None or self.buffer is None:
            return piece.numpy()
        landed = self.buffer[: piece.numel()]
        with torch.cuda.stream(self.stream):
            landed.copy_(piece, non_blocking=True)
        self.stream.synchronize()
        return landed.numpy()
