"""Model files that would cost time or memory out of proportion, or write to the terminal; and files that change."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llada_rt import Engine, _core
from llada_rt.errors import (
    ConfigError,
    LladaRtError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    OutOfMemoryError,
    TokenizerError,
)
from llada_rt.excerpt import excerpt, excerpt_of
from llada_rt.folder.checkpoint import read_checkpoint
from llada_rt.runtime.footprint import Load
from llada_rt.text.tokenizer import Tokenizer
from llada_rt.tools.convert import convert_model
from llada_rt.tools.inspection import inspect_model
from llada_rt.tools.verification import verify_folder
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder
from tests.model.folders import (
    CONFIG,
    INDEX,
    TENSORS,
    TOKENS,
    assemble,
    header_and_data,
    write_config,
    write_model,
    write_shape,
)

LOAD = Load(1, 64, 32, 4096, 1)
Q = "model.transformer.blocks.0.q_proj.weight"
ESCAPES = "\x1b]0;owned\x07\x9b31m\u202e\u200b"


def load(folder: Path) -> None:
    _core.Runtime(str(folder), compute_type="float32", num_threads=1)


def inspect(folder: Path) -> None:
    """A problem of inspect as the error that it is made of."""
    problems = inspect_model(folder, LOAD)["problems"]
    if problems:
        raise ModelFormatError("\n".join(problems))


def convert(folder: Path) -> None:
    convert_model(folder, folder.with_name("converted"), compute_type="int8")


def verify(folder: Path) -> None:
    bad = [check.detail for check in verify_folder(folder) if check.is_good is False]
    if bad:
        raise ModelFormatError("\n".join(bad))


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure a peak")
READERS = [load, read_checkpoint, inspect, convert, verify]


def is_printable(message: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in message)


# ---------------------------------------------------------------- JSON


MULTIPLIER = 0xC6A4A7935BD1E995  # of MurmurHash64A, which libstdc++ hashes texts by, and its seed
SEED = 0xC70F6907
BITS = 2**64


def colliding_keys() -> list[str]:
    """100,000 keys of 32 letters and one hash: 320 beginnings that bring it from its first state to one and the same,
    and as many ends. The second word of each is solved for; it is a text in one of 3,000 cases.
    """
    inverse = pow(MULTIPLIER, -1, BITS)
    random = np.random.default_rng(0)

    def halves(state: int, wanted: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < 320:
            letters = random.integers(ord("a"), ord("z") + 1, (200_000, 8)).astype(np.uint8)
            first = letters.view("<u8")[:, 0]
            after = (np.uint64(state) ^ mixed(first)) * np.uint64(MULTIPLIER)
            data = (after ^ np.uint64(wanted * inverse % BITS)) * np.uint64(inverse)
            second = (data ^ data >> np.uint64(47)) * np.uint64(inverse)
            codes = second.astype("<u8").view(np.uint8).reshape(-1, 8)
            is_text = ((codes >= 0x20) & (codes < 0x7F) & (codes != ord('"')) & (codes != ord("\\"))).all(1)
            found += [one.tobytes() + two.tobytes() for one, two in zip(letters[is_text], codes[is_text], strict=True)]
        return found[:320]

    middle, end = 12345, 67890
    begins, ends = halves(SEED ^ 32 * MULTIPLIER % BITS, middle), halves(middle, end)
    return [(begin + last).decode() for begin in begins for last in ends][:100_000]


def mixed(word):
    data = word * np.uint64(MULTIPLIER)
    return (data ^ data >> np.uint64(47)) * np.uint64(MULTIPLIER)


def header_of_keys(keys) -> bytes:
    return ("{" + ",".join(f'"{key}":{{}}' for key in keys) + "}").encode()


BOMBS = {
    "values": b'{"a":[' + b"0," * 3_000_000 + b"0]}",
    "empty arrays": b'{"a":[' + b"[]," * 2_000_000 + b"0]}",
    "empty texts": b'{"a":[' + b'"",' * 2_000_000 + b"0]}",
    "keys": header_of_keys(f"{number:x}" for number in range(1_200_000)),
    "keys of one beginning": header_of_keys(f"{'a' * 150}{number:06x}" for number in range(80_000)),
    "one long key": b'{"' + b"k" * 15_000_000 + b'": 1}',
    "a long number": b'{"a":' + b"1" * 5000 + b"}",
    "a long number of a size": b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,4]}}',
    "rank 100,000": b'{"a":{"dtype":"F32","shape":[' + b"1," * 99_999 + b'1],"data_offsets":[0,4]}}',
    "rank 100,000 of primes": b'{"a":{"dtype":"F32","shape":[' + b"65521," * 99_999 + b'1],"data_offsets":[0,4]}}',
    "a long list for a type": b'{"a":{"dtype":[' + b"1," * 99_999 + b'1],"shape":[1],"data_offsets":[0,4]}}',
    "header beyond the limit": b" " * (16 << 20) + b"{}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", BOMBS)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_header_costs_what_it_weighs(tmp_path, reader, case):
    folder = write_config(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(assemble(BOMBS[case], b"\0" * 4))
    began = time.process_time()
    with pytest.raises(ModelError) as caught:
        reader(folder)
    spent = time.process_time() - began
    assert len(str(caught.value)) < 700, len(str(caught.value))
    assert spent < 5, spent  # on a busy machine; alone it is below one second


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", [load, read_checkpoint], ids=lambda reader: reader.__name__)
def test_keys_of_one_hash_take_no_longer_than_others(tmp_path, reader):
    """Looked up by libstdc++'s hash, which anybody can compute, 3.3 MB of them took 48 s."""
    keys = colliding_keys()
    text = ("{" + ",".join(f'"{key}":0' for key in keys) + "}").encode()
    assert len(set(keys)) == 100_000
    assert len(text) > 3_300_000
    folder = write_config(tmp_path)
    (folder / "model.safetensors").write_bytes(assemble(text, b""))
    began = time.process_time()
    with pytest.raises(ModelFormatError, match=r"an? (JSON )?object"):
        reader(folder)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": 2, "a": 3}', '{"x": {"dtype": "F32", "dtype": "F32"}}', '{"\\u0061": 1, "a": 2}']
)
@pytest.mark.parametrize("reader", [load, read_checkpoint])
def test_a_key_that_is_there_twice(tmp_path, reader, text):
    folder = write_config(tmp_path)
    (folder / "model.safetensors").write_bytes(assemble(text.encode(), b""))
    with pytest.raises(ModelFormatError, match="twice"):
        reader(folder)


# Bytes by which the peak of a process grew over `work`. The kernel's own peak of a child begins with its parent's.
PEAK = """
import sys
from pathlib import Path
import numpy as np
from llada_rt import _core
from llada_rt.folder.checkpoint import read_checkpoint
from llada_rt.engine import Engine
from llada_rt.errors import ConfigError, ModelError
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
folder, before = Path(sys.argv[1]), peak()
try:
    exec(sys.argv[2])
    error = "none"
except (ConfigError, ModelError) as caught:
    error = type(caught).__name__
print(peak() - before, error)
"""


def peak_of(folder: Path, work: str) -> tuple[int, str]:
    """(bytes, name of the error) of a process of its own."""
    ran = subprocess.run([sys.executable, "-c", PEAK, str(folder), work], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    num_bytes, error = ran.stdout.split()
    return int(num_bytes), error


WORKS = {"load": "_core.Runtime(str(folder), num_threads=1)", "read_checkpoint": "read_checkpoint(folder)"}


@needs_proc
@pytest.mark.parametrize("reader", WORKS)
@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
@pytest.mark.parametrize("case", ["values", "empty arrays", "empty texts", "keys"])
def test_memory_is_a_small_multiple_of_the_file(tmp_path, reader, name, case):
    folder = write_config(tmp_path)
    text = BOMBS[case]
    (folder / name).write_bytes(assemble(text, b"") if name != INDEX else b'{"weight_map":' + text + b"}")
    num_bytes, error = peak_of(folder, WORKS[reader])
    assert error == "ModelFormatError"
    assert num_bytes < 8 * len(text) + (64 << 20), num_bytes


def test_escapes_are_read_and_values_kept(tmp_path):
    """In place: what an escape means is never longer than it is."""
    config = json.dumps(CONFIG)
    odd = config.replace('"model_type"', '"\\u006d\\u006fdel_type"').replace('"llada"', '"\\u006clada"')
    assert odd != config
    folder = write_model(tmp_path)
    (folder / "config.json").write_text(odd.replace("{", '{"\\ud83d\\ude00\\u00e9\\"\\\\\\n": ["\\t", "\\u20ac"], ', 1))
    load(folder)
    for wrong in ('"lla\\u0064e"', '"\\u20ac\\ud83d\\ude00"'):
        (folder / "config.json").write_text(config.replace('"llada"', wrong))
        with pytest.raises(ModelError, match=json.loads(wrong)):
            load(folder)


# ---------------------------------------------------------------- what messages show


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("where", ["name", "dtype", "field", "missing in the index", "shard", "quantization", "number"])
def test_escapes_of_the_terminal_stay_in_the_file(tmp_path, reader, where):
    folder = write_model(tmp_path / "model")
    header, data = header_and_data()
    header.pop("__metadata__", None)
    odd = ESCAPES + "x" * 100_000
    if where == "name":
        header[odd] = header.pop(Q)
    elif where == "dtype":
        header[Q]["dtype"] = odd
    elif where == "field":
        header[Q][odd] = odd
        header[Q]["shape"] = odd
    elif where in ("missing in the index", "shard"):
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
        weight_map = dict.fromkeys(TENSORS, "shard.safetensors") | {
            odd if where != "shard" else "ghost": "shard.safetensors"
        }
        if where == "shard":
            weight_map["ghost"] = ESCAPES + "x" * 100
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    elif where == "quantization":
        write_config(folder, {"quantization": {"method": odd, "more": [odd] * 100}})
    else:
        write_config(folder, {"d_model": odd, "rope_parameters": {odd: 1}})
    if where in ("name", "dtype", "field"):
        (folder / "model.safetensors").write_bytes(assemble(header, data))
    if reader is read_checkpoint and where in ("name", "quantization", "number"):
        reader(folder)  # which names there are, and what config.json says, is not its business
        return
    with pytest.raises(LladaRtError) as caught:
        reader(folder)
    message = str(caught.value)
    assert is_printable(message), message
    assert len(message) < 3000, len(message)


def test_what_inspect_lists(tmp_path):
    """A hundred thousand tensors of names of their own make neither as many lines nor raw ones."""
    header = {f"{number}\x1b[2J": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(50_000)}
    folder = write_config(tmp_path)
    (folder / "model.safetensors").write_bytes(assemble(header, b""))
    (folder / "odd\x1b[31m.pt").write_bytes(b"")
    facts = inspect_model(folder, LOAD)
    assert len(facts["problems"]) <= 101
    assert facts["problems"][-1].startswith("... and ")
    assert len(facts["tensors"]) <= 101
    assert sum(kind["count"] for kind in facts["tensors"].values()) == 50_000
    assert is_printable("\n".join([*facts["problems"], *facts["tensors"], *facts["file_bytes"]]))


def test_excerpt():
    assert excerpt("plain, 床前, 😀") == "plain, 床前, 😀"
    assert excerpt("\x1b[31m\x9b\u202e\ud800\n") == "\\x1b[31m\\x9b\\u202e\\ud800\\x0a"
    assert excerpt("a" * 101) == "a" * 100 + "..."
    assert len(excerpt("\x00" * 10_000_000)) < 300
    assert excerpt_of(10**5000) == "an integer of 16610 bits"
    assert excerpt_of(["a", 1, None]) == "['a', 1, None]"
    assert len(excerpt_of([["x" * 10**6] * 10**5] * 10)) < 300
    assert len(excerpt_of({"k" * 10**6: 1})) < 300


def test_the_compiled_half_cuts_as_much(tmp_path):
    with pytest.raises(ModelNotFoundError) as caught:
        _core.describe_model(os.fsencode(tmp_path) + b"/\x1b\xff\xc3\xa9\xe2\x80\xae" + b"n" * 50)
    assert "\\x1b\\xff" in str(caught.value) or str(caught.value).count("...") == 1
    assert is_printable(str(caught.value))


# ---------------------------------------------------------------- folders and the system


def test_a_folder_that_is_not_named_in_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    write_model(folder)
    with Engine(folder, threads=1) as engine:
        assert np.isfinite(engine.forward(TOKENS.tolist())).all()
    assert inspect_model(folder, LOAD)["problems"]


@pytest.mark.parametrize("reader", [Engine, *READERS], ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("name", ["x" * 300, "y/" * 50_000, "nowhere", "a\x1b[31mb"])
def test_a_folder_that_cannot_be(reader, name):
    with pytest.raises(ModelNotFoundError) as caught:
        reader(Path(name))
    assert len(str(caught.value)) < 1000
    assert is_printable(str(caught.value))


MANY_FILES = """
import os, sys
from pathlib import Path
import llada_rt.tools.convert, llada_rt.tools.inspection, llada_rt.tools.verification, tokenizers
from llada_rt import Engine, _core
from llada_rt.folder.checkpoint import read_checkpoint
from llada_rt.errors import OutOfMemoryError
folder = Path(sys.argv[1])
works = [lambda: Engine(folder, threads=1), lambda: _core.Runtime(str(folder), num_threads=1),
         lambda: read_checkpoint(folder)]
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
open_files = []
try:
    while True:
        open_files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
kinds = []
for work in works:
    try:
        work()
        kinds.append("no error")
    except BaseException as error:
        kinds.append(type(error).__name__)
for each in open_files:
    os.close(each)
for work in works:
    work()
print(*kinds)
"""


def test_too_many_open_files(tmp_path):
    write_model(tmp_path)
    command = [sys.executable, "-c", MANY_FILES, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["OutOfMemoryError"] * 3


# ---------------------------------------------------------------- files that shrink


# 40 MB, so that a load lasts some steps.
LARGE = {"d_model": 256, "mlp_hidden_size": 1024, "n_layers": 6, "vocab_size": 8000, "embedding_size": 8000}


SHRINK = """
import os, sys, threading, time
from pathlib import Path
from llada_rt import _core
from llada_rt.folder.checkpoint import read_checkpoint
from llada_rt.tools.convert import convert_model
from llada_rt.errors import ModelFormatError
from llada_rt.tools.verification import verify_folder
folder, kind, delay = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
file = folder / "model.safetensors"
size = file.stat().st_size
def shrink():
    time.sleep(delay)
    os.truncate(file, 4096)
def work():
    if kind == "load":
        _core.Runtime(str(folder), compute_type="int4", num_threads=2)
    elif kind == "convert":
        convert_model(folder, folder.with_name("out" + sys.argv[3]), compute_type="int8")
    else:
        bad = [check.detail for check in verify_folder(folder) if check.is_good is False]
        if bad:
            raise ModelFormatError(bad[0])
thread = threading.Thread(target=shrink)
thread.start()
try:
    work()
    print("whole")
except ModelFormatError as error:
    print("shortened" if "shortened" in str(error) else "truncated", error)
thread.join()
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["load", "convert", "verify"])
def test_a_file_that_is_shortened_while_it_is_read(tmp_path, kind):
    """At ten moments; a mapped file would end the process by SIGBUS."""
    folder = write_shape(tmp_path / "model", LARGE)
    whole = (folder / "model.safetensors").read_bytes()
    seen = []
    for number in range(10):
        (folder / "model.safetensors").write_bytes(whole)
        command = [sys.executable, "-c", SHRINK, str(folder), kind, str(0.004 * 1.6**number)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (number, ran.returncode, ran.stderr[-1000:])
        seen.append(ran.stdout.split()[0])
    assert "shortened" in seen, seen


@pytest.mark.timeout(60)
def test_a_file_that_shrinks_and_grows_while_it_is_loaded(tmp_path):
    """Again and again: whatever a load sees of it is a model or an error."""
    folder = write_shape(tmp_path, LARGE)
    file = folder / "model.safetensors"
    done = threading.Event()

    def shrink_and_grow() -> None:
        whole = file.stat().st_size
        while not done.is_set():
            os.truncate(file, whole // 2)
            os.truncate(file, whole)  # zeros now

    thread = threading.Thread(target=shrink_and_grow)
    thread.start()
    try:
        for _ in range(10):
            with contextlib.suppress(ModelFormatError):
                load(folder)
    finally:
        done.set()
        thread.join()
    load(folder)  # whole again, of zeros


# ---------------------------------------------------------------- memory


@needs_proc
def test_a_limit_is_looked_at_before_anything_is_read(tmp_path):
    """A sparse file of 3 GB: its header is all that is read."""
    changes = {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 16384, "n_layers": 4}
    write_shape(tmp_path, changes, sparse=True)
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"memory_limit: expected at least \d+ bytes .* got 50000000"):
        Engine(tmp_path, memory_limit=50_000_000, threads=1)
    assert time.process_time() - began < 1
    num_bytes, error = peak_of(tmp_path, "Engine(folder, memory_limit=50_000_000, threads=1)")
    assert (error, num_bytes < 20_000_000) == ("ConfigError", True), num_bytes


def test_weights_beyond_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("llada_rt.runtime.memory._physical_sizes", lambda: [100_000])
    with pytest.raises(OutOfMemoryError, match="has 100000"):
        Engine(CHECKPOINT, threads=1)


@needs_proc
def test_a_context_of_millions_makes_no_angles_before_they_are_used(tmp_path):
    """The angles of 2^24 positions would take 512 MiB."""
    folder = write_model(tmp_path, changes={"max_sequence_length": 2**24})
    num_bytes, error = peak_of(
        folder,
        """
runtime = _core.Runtime(str(folder), compute_type="float32", num_threads=1)
tokens = (np.arange(5000) % 100).astype(np.int32)
short = runtime.forward(tokens[:100])
runtime.forward(tokens)
assert (runtime.forward(tokens[:100]) == short).all()
""",
    )
    assert (error, num_bytes < 64 << 20) == ("none", True), num_bytes
    with pytest.raises(ConfigError, match="memory_limit"):
        Engine(folder, memory_limit="1GB", threads=1)


def test_later_angles_are_those_of_a_context_that_has_them_at_once(tmp_path):
    long = write_model(tmp_path / "long", changes={"max_sequence_length": 20_000})
    tokens = (np.arange(6000) * 7 % 150).astype(np.int32)
    grown, at_once = (_core.Runtime(str(long), compute_type="float32", num_threads=1) for _ in range(2))
    for length in (10, 4096, 4097, 6000, 10):
        assert np.isfinite(grown.forward(tokens[:length])).all()
    assert np.array_equal(grown.forward(tokens), at_once.forward(tokens))


# ---------------------------------------------------------------- the tokenizer


def spoilt(tmp_path: Path, **changes: object) -> Path:
    folder = write_folder(tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def doubling(count: int) -> list[dict]:
    return [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"} for _ in range(count)]


GROWING = [
    {"normalizer": {"type": "Sequence", "normalizers": doubling(40)}},
    {"decoder": {"type": "Sequence", "decoders": doubling(40)}},
    {"decoder": {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": doubling(8)}] * 1}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 100_000}]}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 40}},
    {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}] * 1000,
        }
    },
]


@pytest.mark.parametrize("changes", GROWING, ids=range(len(GROWING)))
def test_a_tokenizer_that_lengthens_texts_without_measure(tmp_path, changes):
    with pytest.raises(TokenizerError, match="expected at most 256 steps"):
        Tokenizer.load(spoilt(tmp_path, **changes))


def test_a_tokenizer_as_published_ones_are(tmp_path):
    llama = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "NFKC"},
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    folder = spoilt(
        tmp_path,
        normalizer={"type": "Sequence", "normalizers": llama},
        decoder={"type": "Sequence", "decoders": steps},
    )
    assert Tokenizer.load(folder) is not None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"decoder": ' + "9" * 5000 + "}", '{"a":[' + "0," * 5_000_000 + "0]}"],
    ids=lambda text: text[:12] or "empty",
)
def test_a_tokenizer_that_is_none(tmp_path, text):
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError) as caught:
        Engine(folder, threads=1)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("decoder", [[], [1, 2], "x", 3, {"type": []}, {"type": "Sequence", "decoders": {}}], ids=str)
def test_a_decoder_of_another_kind(tmp_path, decoder):
    with pytest.raises(TokenizerError):
        Tokenizer.load(spoilt(tmp_path, decoder=decoder))


@pytest.mark.parametrize(
    "template",
    [
        [{"name": [], "template": "x"}],
        [{"name": {}, "template": 1}],
        [1],
        [[]],
        [{}],
        3,
        {"a": 1},
        [{"name": "\x1b" * 10**6}],
    ],
    ids=range(8),
)
def test_a_chat_template_of_another_kind(tmp_path, template):
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(folder)
    assert is_printable(str(caught.value))
