"""Proof of the whole model at the shape of LLaDA-8B, random weights: logits against torch, what is committed against
those logits, replayed graphs against single ops, a request in company against itself alone, early launch against none.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.rig import table_of, variables
from benchmarks.gpu.weights import model_folder
from llada_rt import _core
from llada_rt.runtime import records
from training.model import LLaDA, rope_angles

Commits = np.ndarray  # of _core.COMMIT_DTYPE


def open_runtime(flight: Flight, compute_type: str = "bfloat16", **asked: str) -> "_core.Runtime":
    """asked: variables of the environment that a runtime reads when it is opened."""
    with variables(asked):
        return _core.Runtime(str(model_folder(flight)), compute_type=compute_type, table=table_of(flight))


@torch.no_grad()
def true_logits(model: LLaDA, tokens: Tensor) -> Tensor:
    """(length, vocabulary) in float32, a layer at a time, so that the card need not hold the weights in both types."""
    x = model.embedding(tokens).float()
    config = model.config
    angles = rope_angles(tokens.shape[1], config.head_dim, config.rope_theta, x.device)
    for block in model.blocks:
        x = deepcopy(block).float()(x, angles.cos(), angles.sin())
    x = deepcopy(model.final_norm).float()(x)
    return (x @ model.head_weight.float().T)[0]


class Canvas:
    """A text, then masks; `denoise` runs one block of them and gives what was committed."""

    def __init__(self, flight: Flight, length: int, masks: int, seed: int = 1) -> None:
        config = flight.shape.config
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, config.vocab_size - 2, (length,), generator=generator).int().numpy()
        self.tokens[-masks:] = config.mask_token_id
        self.block = (length - masks, length)
        self.mask_id = config.mask_token_id


def denoise(runtime: "_core.Runtime", canvases: list[Canvas], num_steps: int) -> list[Commits]:
    """All blocks together, in the first step whole canvases: commits of each canvas, by step and position."""
    plan = records.blank(len(canvases))
    spans = []
    for i, canvas in enumerate(canvases):
        row, length = plan[i], len(canvas.tokens)
        row["slot"] = runtime.open_slot(canvas.tokens)
        row["block_start"], row["block_stop"] = canvas.block
        row["commit_start"], row["sampling"]["mask_id"] = canvas.block[0], canvas.mask_id
        row["select"]["num_masked"], row["select"]["num_steps"] = canvas.block[1] - canvas.block[0], num_steps
        row["first_begin"], row["first_end"] = 2 * i, 2 * i + 1
        row["next_begin"], row["next_end"] = 2 * i + 1, 2 * i + 2
        spans += [(0, length, length), (*canvas.block, length)]
    outcomes, commits = runtime.denoise(plan, np.array(spans, _core.SPAN_DTYPE), num_steps)
    for slot in plan["slot"].tolist():
        runtime.close_slot(slot)
    if not (outcomes["bad_position"] == -1).all() or not (outcomes["num_masked"] == 0).all():
        raise RuntimeError(f"a block did not fill: {outcomes}")
    kept = [commits[commits["sequence"] == i] for i in range(len(canvases))]
    return [np.sort(of_one, order=["step", "position"]) for of_one in kept]


def same(a: Commits, b: Commits) -> bool:
    """Tokens, places and confidences, bit for bit; not the number of the sequence."""
    names = ["step", "position", "token", "confidence", "log_prob"]
    return len(a) == len(b) and all(np.array_equal(a[name], b[name]) for name in names)


def check_logits(
    flight: Flight, runtime: "_core.Runtime", compute_type: str, tokens: np.ndarray, truth: Tensor, plain: Tensor
) -> Tensor:
    """Ours, of all positions."""
    ours = torch.from_numpy(runtime.forward(tokens)).to(truth.device)
    error, of_torch = (float((t.double() - truth.double()).square().mean().sqrt()) for t in (ours, plain))
    agree, torch_agrees = (float((t.argmax(-1) == truth.argmax(-1)).float().mean()) for t in (ours, plain))
    allowed = 2.0 if compute_type == "bfloat16" else 20.0  # fewer bits of the weights: bounded, and told
    flight.claim(
        "logits",
        error <= allowed * of_torch,
        compute_type=compute_type,
        positions=len(tokens),
        rms_error=error,
        rms_error_of_torch=of_torch,
        ratio=error / of_torch,
        same_token=agree,
        same_token_of_torch=torch_agrees,
    )
    return ours


def check_commits(flight: Flight, runtime: "_core.Runtime", canvas: Canvas, logits: Tensor) -> None:
    """The first step of a block, all of it committed: token and confidence by the logits of the same canvas."""
    (commits,) = denoise(runtime, [canvas], 1)
    rows = logits[canvas.block[0] : canvas.block[1]]  # (masks, vocabulary)
    log_probs = rows.double().log_softmax(-1)
    token = rows.argmax(-1)
    want = log_probs.gather(-1, token[:, None])[:, 0].cpu().numpy()
    tokens_equal = np.array_equal(commits["token"], token.int().cpu().numpy())
    off = float(np.abs(commits["log_prob"] - want).max()) if tokens_equal else float("inf")
    masks = canvas.block[1] - canvas.block[0]
    flight.claim("commits are those of the logits", tokens_equal and off <= 1e-4, masks=masks, log_prob_off=off)


def check_graphs(flight: Flight, runtime: "_core.Runtime", canvases: list[Canvas], num_steps: int) -> None:
    """The first run is eager, the second records, the third replays, the last goes op by op."""
    before = runtime.device_counts
    runs = [denoise(runtime, canvases, num_steps) for _ in range(3)]
    after = runtime.device_counts
    runtime.set_trace(True)
    runs.append(denoise(runtime, canvases, num_steps))
    runtime.set_trace(False)
    equal = all(same(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
    replays, captures = (after[what] - before[what] for what in ("replays", "captures"))
    flight.claim(
        "replayed graphs equal eager steps",
        equal and replays >= num_steps,
        replays=replays,
        captures=captures,
        steps=3 * num_steps,
        canvases=len(canvases),
    )


def check_company(flight: Flight, runtime: "_core.Runtime", canvases: list[Canvas], num_steps: int) -> None:
    together = denoise(runtime, canvases, num_steps)
    for canvas, in_company in zip(canvases, together, strict=True):
        (alone,) = denoise(runtime, [canvas], num_steps)
        length = len(canvas.tokens)
        flight.claim("a request alone equals itself in company", same(alone, in_company), length=length)


def check_early_launch(flight: Flight, runtime: "_core.Runtime", canvases: list[Canvas], num_steps: int) -> None:
    """Against kernels that run one after the other; replayed graphs too."""
    early = denoise(runtime, canvases, num_steps)
    other = open_runtime(flight, LLADA_CUDA_EARLY_LAUNCH="0")
    rounds = [denoise(other, canvases, num_steps) for _ in range(3)]
    other.close()
    rounds += [denoise(runtime, canvases, num_steps) for _ in range(3)]
    equal = all(same(a, b) for each in rounds for a, b in zip(early, each, strict=True))
    flight.claim("early launch commits the same", equal)


def run_steps(flight: Flight, runtime: "_core.Runtime | None" = None) -> None:
    """What steps promise each other; no product of torch's runs."""
    own = runtime or open_runtime(flight)
    length, masks = sizes_of(flight)
    ragged = [Canvas(flight, size, masks // 2, seed=size) for size in (length - 7, length // 2, length)]
    num_steps = 4 if flight.small else 8
    for name, check, canvases in (
        ("graphs of one", check_graphs, ragged[2:]),
        ("graphs of several", check_graphs, ragged),
        ("company", check_company, ragged),
        ("early launch", check_early_launch, ragged),
    ):
        with flight.attempt(name):
            check(flight, own, canvases, num_steps)
    if runtime is None:
        own.close()


def sizes_of(flight: Flight) -> tuple[int, int]:
    """Positions of a canvas, and of its longest block."""
    return (48, 32) if flight.small else (512, 64)


def run(flight: Flight) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    length = sizes_of(flight)[0]
    masks = 32 if flight.small else 256
    whole = Canvas(flight, length, masks)
    runtime = open_runtime(flight)
    with flight.attempt("logits"):
        model = flight.shape.model(flight.device)
        tokens = torch.from_numpy(whole.tokens).long().to(flight.device)[None]
        truth = true_logits(model, tokens)
        with torch.no_grad():
            plain = model(tokens)[0].float()
        ours = check_logits(flight, runtime, "bfloat16", whole.tokens, truth, plain)
        del model
    for count in (8, 16, 32) if flight.small else (32, 64, 256):
        with flight.attempt(f"commits of {count} masks"):
            canvas = Canvas(flight, length, count)
            logits = ours if count == masks else torch.from_numpy(runtime.forward(canvas.tokens))
            check_commits(flight, runtime, canvas, logits)
    run_steps(flight, runtime)
    runtime.close()
    for compute_type in ("float8", "int8") if flight.small else ("float8",):
        with flight.attempt(f"logits, {compute_type}"):
            runtime = open_runtime(flight, compute_type)
            check_logits(flight, runtime, compute_type, whole.tokens, truth, plain)
            runtime.close()
    if not flight.dry:
        with flight.attempt("logits by the plain tier"):
            runtime = open_runtime(flight, LLADA_CUDA_PRODUCTS="plain")
            by_plain = check_logits(flight, runtime, "bfloat16", whole.tokens, truth, plain)
            flight.claim("CUTLASS's logits have the bits of the plain tier's", torch.equal(by_plain, ours))
            runtime.close()
