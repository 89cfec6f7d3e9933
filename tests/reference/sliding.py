"""Generation in a block that slides, with its cache: DSB (Luo et al. 2026, lizhuo-luo/DSB).

The active range is [s, e): s the first mask, e = min(P + B + committed so far, s + B), in the greedy form without
s + B. The steps left share the masks left. The cache recomputes [s - max(24, shift), e), shift being how far s has
moved since the step before, and the whole canvas at first and after every B commits.
"""

import numpy as np

from .commit import commit
from .denoise import Commit, Params, Run, SpecialIds, limits_of, propose
from .forward import Model


def generate(model: Model, prompt: list[int], p: Params, ids: SpecialIds, *, greedy: bool, ends: tuple = ()) -> Run:
    start, total = len(prompt), len(prompt) + p.gen_length
    run = Run(np.array([*prompt, *[ids.mask] * p.gen_length]))
    given = np.arange(total) < start
    slots = [model.open_slot(total) for _ in range(2 if p.cfg_scale > 0 else 1)]
    since, last = 0, start
    while (run.canvas[start:] == ids.mask).any():
        first = start + int(np.argmax(run.canvas[start:] == ids.mask))
        done = run.canvas[start:first]
        if np.isin(done, ends).any():
            break
        committed = int((run.canvas[start:] != ids.mask).sum())
        stop = min(start + p.block_length + committed, total)
        if not greedy:
            stop = min(stop, first + p.block_length)
        if p.cache == "none" or run.num_forward == 0 or since >= p.block_length:
            rows, since = np.arange(total), 0
        else:
            rows = np.arange(max(0, first - max(24, first - last)), stop)
        step = run.num_forward
        (positions, score), _ = propose(model, run, slots, given, rows, p, ids, (first, stop))
        found = score((ids.mask,))
        left = int((run.canvas[start:] == ids.mask).sum())
        count = -(-left // max(1, p.steps - step)) if p.rule == "top_k" else 1
        limits = dict(count=count, entropy=found.entropy, **limits_of(p, run.canvas, (first, stop), ids.mask))
        own = dict(mask_id=ids.mask, alternatives=(found.token, found.confidence))
        run.canvas, chosen = commit(run.canvas, positions, found.token, found.confidence, p.rule, **own, **limits)
        for position in chosen:
            row = int(np.searchsorted(positions, position))
            run.commits.append(Commit(step, int(position), int(found.token[row]), float(found.confidence[row])))
        since, last = since + len(chosen), first
    return run
