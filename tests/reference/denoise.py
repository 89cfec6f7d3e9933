"""The published loops, once: LLaDA generate.py, and Fast-dLLM with prefix and dual cache, threshold and factor; in
their place the rules of later papers. Beside them what block-causal models ask for: their attention, a minimum of
commits, editing of committed tokens (LLaDA2).

A cache policy answers "which positions are recomputed in this step?", a decoding rule "which candidates are
committed?". Three more policies stand beside the published loops' own: dual_compact, vicinity, interval.
Two habits are left out and counted instead (`num_idle`): schedule steps that commit nothing, and Fast-dLLM's extra
forward after a block that its first forward has filled.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .candidates import Candidates, candidates, guide
from .commit import RULES, commit
from .forward import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """LLaDA's and Fast-dLLM's own words."""

    steps: int
    gen_length: int
    block_length: int
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: str = "low_confidence"
    threshold: float | None = None
    threshold_alpha: float = 0.0  # by this share the threshold falls as the canvas fills (Streaming-dLLM)
    factor: float | None = None
    frechet: float | None = None
    local_leap: float | None = None
    local_leap_threshold: float = 0.75
    local_leap_radius: int = 4
    entropy_bound: float | None = None
    adablock: float | None = None  # so probable a delimiter ends the block (AdaBlock)
    adablock_token: int = -1
    cache: str = "none"
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    seed: int = 0
    propose_mask: bool = True  # the mask id may win a position, which then stays masked: the published loops' habit
    attention_block: int | None = None  # block-causal attention, blocks counted from position 0 (LLaDA2, SDAR)
    num_to_transfer: int = 1  # all but top_k commit at least so many (LLaDA2.1)
    is_scheduled: bool = False  # they commit at least what the schedule says too, and end with it (LLaDA2.0, SDAR)
    editing_threshold: float | None = None  # a committed token gives way to one that is so sure (LLaDA2.1)
    max_post_steps: int = 0  # steps without a mask in the block

    @property
    def rule(self) -> str:
        return next((rule for rule in RULES[1:] if getattr(self, rule) is not None), "top_k")


class SpecialIds(NamedTuple):
    mask: int
    eos: int
    eot: int


class Commit(NamedTuple):
    step: int
    position: int
    token: int
    confidence: float
    replaced: int | None = None  # the token that an edit has replaced


@dataclass(slots=True)
class Run:
    canvas: np.ndarray  # (length,)
    query_lengths: list[int] = field(default_factory=list)  # one entry per forward
    commits: list[Commit] = field(default_factory=list)
    num_idle: int = 0  # forwards that the published loop runs and this one does not

    @property
    def num_forward(self) -> int:
        return len(self.query_lengths)


def schedule(num_masked: int, num_steps: int) -> list[int]:
    """How many tokens each step of a block commits."""
    return [num_masked // num_steps + (i < num_masked % num_steps) for i in range(num_steps)]


def visible(position: int, length: int, p: Params) -> int:
    """How many keys a position sees."""
    return length if p.attention_block is None else min((position // p.attention_block + 1) * p.attention_block, length)


def query_rows(run: Run, step: int, block: tuple[int, int], span: tuple[int, int], given, p: Params, mask_id: int):
    """Positions (n,) that a block's step recomputes; of a policy's, those that the block sees. given: (length,)."""
    rows = policy_rows(p.cache, run, step, block, span, mask_id, ~given & (p.editing_threshold is not None))
    return rows[rows < visible(block[1] - 1, len(run.canvas), p)]


def policy_rows(cache: str, run: Run, step: int, block: tuple[int, int], span: tuple[int, int], mask_id, is_editable):
    at, total = np.arange(len(run.canvas)), run.num_forward
    in_block = (at >= block[0]) & (at < block[1])
    if cache == "interval":  # given text every 50 steps of the request, the response every 7
        in_response = (at >= span[0]) & (at < span[1])
        return at[in_block | (in_response & (total % 7 == 0)) | (~in_response & (total % 50 == 0))]
    if step == 0 or cache == "none" or (cache == "vicinity" and total < 4):
        return at
    if cache == "prefix":
        return at[at >= block[0]]
    if cache == "vicinity":
        return at[(at >= block[0] - 16) & (at < block[1] + 16)]
    if cache == "dual_compact":  # candidates of the last step
        before = [commit.position for commit in run.commits if commit.step == total - 1]
        return at[in_block & ((run.canvas == mask_id) | np.isin(at, before) | is_editable)]
    return at[in_block]


def propose(model: Model, run: Run, slots: list, prompt: np.ndarray, rows, p: Params, ids: SpecialIds, block):
    """One forward, two with guidance. Returns positions and a function that scores them, for the masked queried
    positions before the block's end and for those in the block that may be edited.
    """
    canvases = [run.canvas, np.where(prompt, ids.mask, run.canvas)]
    keys = np.array([visible(row, len(run.canvas), p) for row in rows])
    parts = np.split(rows, np.flatnonzero((np.diff(rows) > 1) | (np.diff(keys) > 0)) + 1)
    spans = [(part[0], part[-1] + 1, visible(part[0], len(run.canvas), p)) for part in parts]
    hidden = [model.query(slot, canvas, spans)[1] for slot, canvas in zip(slots, canvases, strict=False)]
    is_masked = run.canvas[rows] == ids.mask
    is_editable = (rows >= block[0]) & ~is_masked & ~prompt[rows] & (p.editing_threshold is not None)
    step = run.num_forward
    run.query_lengths.append(len(rows))

    def score(wanted: np.ndarray, never: tuple[int, ...]) -> Candidates:
        logits, positions = [model.head(h[wanted]) for h in hidden], rows[wanted]
        return candidates(
            guide(*logits, p.cfg_scale) if len(logits) == 2 else logits[0],
            positions,
            step=step,
            seed=p.seed,
            temperature=p.temperature,
            score=p.remasking,
            suppressed=(ids.eos,) if p.logits_eos_inf else (),
            unconfident=(ids.eos, ids.eot) if p.confidence_eos_eot_inf else (),
            never=never,
        )

    both = [(rows < block[1]) & kind for kind in (is_masked, is_editable)]
    return [(rows[wanted], functools.partial(score, wanted)) for wanted in both]


def limits_of(p: Params, canvas: np.ndarray, block: tuple[int, int], mask_id: int) -> dict:
    """What the rule of a step goes by. A threshold falls with the masks of the block and of what it sees after it."""
    value = getattr(p, p.rule, 0.0)
    if p.rule == "threshold":
        ahead = canvas[block[0] : max(visible(block[1] - 1, len(canvas), p), block[1])]
        value *= 1 - p.threshold_alpha * (1 - np.count_nonzero(ahead == mask_id) / len(ahead))
    return {"value": value, "near_value": p.local_leap_threshold, "radius": p.local_leap_radius}


def edit(canvas, positions, found: Candidates, p: Params, mask_id: int) -> list[int]:
    """Rows whose candidate takes the place of the token there. None writes a mask."""
    differs = (found.token != canvas[positions]) & (found.token != mask_id)
    return np.flatnonzero(differs & (found.confidence >= p.editing_threshold)).tolist()


def denoise_block(
    propose_step: Callable, run: Run, block: tuple[int, int], num_steps: int, p: Params, mask_id: int
) -> None:
    """Steps until no mask is left; of a schedule (`top_k`) at most `num_steps`, and none that commits nothing.

    With editing the masks are followed by `max_post_steps` steps at most, until one edits nothing.
    """

    def num_masked() -> int:
        return np.count_nonzero(run.canvas[slice(*block)] == mask_id)

    counts = schedule(num_masked(), num_steps)
    step = post_steps = 0
    is_still = False
    while True:
        is_filled = not num_masked()
        if is_filled:
            post_steps += 1
            if step == 0 or is_still or p.editing_threshold is None or post_steps > p.max_post_steps:
                break
        elif (p.rule == "top_k" and not any(counts[step:])) or (p.is_scheduled and step >= num_steps):
            break
        (positions, score), (editable, score_edits) = propose_step(step)
        other = score((mask_id,))
        best = score(()) if p.propose_mask else other
        scheduled = counts[step] if step < num_steps else 0
        count = scheduled if p.rule == "top_k" else max(p.num_to_transfer, scheduled * p.is_scheduled)
        alternatives = (other.token, other.confidence)
        before = run.canvas
        limits = dict(count=count, entropy=best.entropy, **limits_of(p, before, block, mask_id))
        own = dict(mask_id=mask_id, alternatives=alternatives)
        run.canvas, committed = commit(before, positions, best.token, best.confidence, p.rule, **own, **limits)
        for position in committed:
            row, token = int(np.searchsorted(positions, position)), int(run.canvas[position])
            source = best if best.token[row] == token else other
            run.commits.append(Commit(run.num_forward - 1, int(position), token, float(source.confidence[row])))
        is_still = is_filled
        if len(editable):
            found = score_edits(()) if p.propose_mask else score_edits((mask_id,))
            for row in edit(before, editable, found, p, mask_id):
                position, token = int(editable[row]), int(found.token[row])
                confidence, old = float(found.confidence[row]), int(before[position])
                run.commits.append(Commit(run.num_forward - 1, position, token, confidence, old))
                run.canvas[position] = token
                is_still = False
        step += 1
    if p.cache == "none":
        run.num_idle += num_steps - step if p.rule == "top_k" else 0
    else:
        run.num_idle += step == 1


def denoise(model: Model, canvas: np.ndarray, span: tuple[int, int], p: Params, ids: SpecialIds) -> Run:
    """Fills the masks of `span`, block by block; whatever is not masked is given, and hidden from the guide.

    canvas: (length,). The first `steps % blocks` blocks get one step more; a block without masks is passed over.
    """
    run = Run(np.array(canvas))
    length = len(run.canvas)
    prompt = run.canvas != ids.mask
    slots = [model.open_slot(length) for _ in range(2 if p.cfg_scale > 0 else 1)]
    if p.adablock is not None:
        denoise_to_borders(model, run, slots, prompt, span, p, ids)
        return run
    begin = span[0] if p.attention_block is None else span[0] - span[0] % p.block_length
    starts = range(begin, span[1], p.block_length)
    for index, block_start in enumerate(starts):
        block = (block_start, min(block_start + p.block_length, span[1]))
        num_steps = max(1, p.steps // len(starts) + (index < p.steps % len(starts)))

        def propose_step(step: int, block: tuple[int, int] = block):
            rows = query_rows(run, step, block, span, prompt, p, ids.mask)
            return propose(model, run, slots, prompt, rows, p, ids, block)

        denoise_block(propose_step, run, block, num_steps, p, ids.mask)
    return run


def denoise_to_borders(model: Model, run: Run, slots: list, prompt, span: tuple[int, int], p: Params, ids) -> None:
    """AdaBlock: the first forward of a block decides where it ends, and its first step chooses from that forward."""
    start = span[0]
    while start < span[1]:
        block = (start, min(start + p.block_length, span[1]))
        if ids.mask not in run.canvas[slice(*block)]:
            start = block[1]
            continue
        reach = min(start + (span[1] - span[0]) // 4, span[1])
        rows = query_rows(run, 0, block, span, prompt, p, ids.mask)
        wide = (start, max(block[1], reach))
        (positions, score), editable = propose(model, run, slots, prompt, rows, p, ids, wide)
        found = score((ids.mask,))
        is_border = (positions >= start) & (positions < reach) & (found.token == p.adablock_token)
        is_border &= found.probability >= p.adablock
        if is_border.any():
            block = (start, int(positions[np.argmax(np.where(is_border, found.probability, -1))]) + 1)
        kept = positions < block[1]

        def propose_step(step: int, block=block, positions=positions, kept=kept, score=score, editable=editable):
            if step == 0:
                return (positions[kept], lambda never: score(never).of(kept)), editable
            rows = query_rows(run, step, block, span, prompt, p, ids.mask)
            return propose(model, run, slots, prompt, rows, p, ids, block)

        num_masked = np.count_nonzero(run.canvas[slice(*block)] == ids.mask)
        denoise_block(propose_step, run, block, num_masked, p, ids.mask)
        start = block[1]


def generate(model: Model, prompt: list[int], p: Params, ids: SpecialIds) -> Run:
    """The published entry point: the prompt followed by `gen_length` masks."""
    canvas = np.array([*prompt, *[ids.mask] * p.gen_length])
    return denoise(model, canvas, (len(prompt), len(canvas)), p, ids)
