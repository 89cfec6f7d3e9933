"""What each cache policy costs and loses on the demo model's tasks: questions right, forwards, recomputed positions,
and the audit of each cached step against the exact one.

    python -m benchmarks.bench_policies [--every 4] [--block-length 16] [--threads 1]
    python -m benchmarks.bench_policies --presets [--every 4]

`--presets` asks with each preset as it is, in blocks of at most 32 that divide the answer, and says how many answers
are the reference preset's. float32, temperature 0. `--every n` asks each n-th question of: the next line (16 tokens),
poems with 30 % of their characters hidden, acrostics, whole poems by title (72 tokens). Answers are looked at up to the
first end token.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tokenizers import Tokenizer

from benchmarks.demo_tasks import TASKS, ask, prompt_of, questions
from benchmarks.harness import ROOT, environment, run_to_the_end, store
from llada_rt import CacheAudit, CompletionOutput, Engine, SamplingParams
from llada_rt.config import DEMO_DIR
from llada_rt.options.types import Preset
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from training.tasks.verse import Item

DECODERS: dict[str, dict[str, Any]] = {"one token a step": {}, "threshold 0.9": {"threshold": 0.9}}
GUARDED: dict[str, dict[str, Any]] = {  # a cache that looks after itself
    "dual, error_budget=0.1": {"cache": "dual", "error_budget": 0.1},
    "dual, audit=4, error_budget=0.1": {"cache": "dual", "error_budget": 0.1, "audit": 4},
}


def row(engine: Engine, name: str, items: Sequence[Item], answers: Sequence[CompletionOutput]) -> dict[str, Any]:
    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    for item, answer in zip(items, answers, strict=True):
        asked[item.task] += 1
        right[item.task] += answer.text.strip() in item.accepted
    stats = [answer.diffusion for answer in answers]
    audits = [answer.audit for answer in answers if answer.audit]
    nfe = sum(each.nfe for each in stats)
    return {
        "policy": name,
        "questions": dict(asked),
        "right": {task: right[task] / asked[task] for task in TASKS},
        "nfe": nfe,
        "query_rows": sum(each.num_query_rows for each in stats),
        "refreshes": sum(each.num_refreshes for each in stats),
        "tokens_per_forward": sum(each.tokens_per_forward * each.nfe for each in stats) / nfe,
        **drift(audits),
    }


def drift(audits: Sequence[CacheAudit]) -> dict[str, Any]:
    positions, commits = (sum(getattr(each, name) for each in audits) for name in ("num_positions", "num_commits"))
    return {
        "audited_steps": sum(each.num_steps for each in audits),
        "changed_candidates": sum(each.num_changed_candidates for each in audits) / max(positions, 1),
        "changed_commits": sum(each.num_changed_commits for each in audits) / max(commits, 1),
        "mean_kl": sum(each.mean_kl * each.num_positions for each in audits) / max(positions, 1),
        "max_kl": max((each.max_kl for each in audits), default=0.0),
    }


def compare_presets(engine: Engine, items: Sequence[Item], out: Path, facts: Mapping[str, Any]) -> None:
    """Prints a row for each preset; the first one is what the others are compared with."""
    print("\n| preset | " + " | ".join(TASKS) + " | as the reference | forwards | rows | tokens a forward |")
    print("|---|" + "---|" * (len(TASKS) + 4))
    prompts = [prompt_of(item, engine.mask_token_id) for item in items]
    lengths = [len(item.canvas) - item.start for item in items]
    blocks = [max(block for block in range(1, 33) if length % block == 0) for length in lengths]
    reference: list[str] = []
    first: dict[str, Any] = {}
    for name in get_args(Preset):
        params = [
            SamplingParams(preset=name, gen_length=length, block_length=block)
            for length, block in zip(lengths, blocks, strict=True)
        ]
        answers = [output.outputs[0] for output in engine.generate(prompts, params)]
        texts = [answer.text for answer in answers]
        reference, first = reference or texts, first or row(engine, name, items, answers)
        r = row(engine, name, items, answers)
        r["agreement"] = sum(map(str.__eq__, texts, reference)) / len(texts)
        shares = " | ".join(f"{r['right'][task]:.1%}" for task in TASKS)
        rows = r["query_rows"] / first["query_rows"]
        print(
            f"| `{name}` | {shares} | {r['agreement']:.1%} | {r['nfe']} | {rows:.0%} | {r['tokens_per_forward']:.2f} |",
            flush=True,
        )
        store(out, {"bench": "presets", **facts, **r})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=4, help="ask each n-th question")
    parser.add_argument("--block-length", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--presets", action="store_true", help="the presets in place of the cache policies")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_policies.jsonl")
    options = parser.parse_args()
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    items = questions(Tokenizer.from_file(str(DEMO_DIR / "tokenizer.json")), options.every)
    with Engine(compute_type="float32", threads=options.threads, max_num_seqs=16) as engine:
        if options.presets:
            return compare_presets(engine, items, options.out, facts)
        for decoder, rule in DECODERS.items():
            print(f"\n{decoder}\n")
            print("| cache | " + " | ".join(TASKS) + " | forwards | rows | candidates | tokens | mean KL | max KL |")
            print("|---|" + "---|" * (len(TASKS) + 6))
            exact = None
            for name, policy in {**{name: {"cache": name} for name in FIXED_BLOCK_CACHES}, **GUARDED}.items():
                r = row(engine, name, items, ask(engine, items, options.block_length, policy | rule))
                exact = exact or r
                shares = " | ".join(f"{r['right'][task]:.1%}" for task in TASKS)
                print(
                    f"| `{name}` | {shares} | {r['nfe']} | {r['query_rows'] / exact['query_rows']:.0%} | "
                    f"{r['changed_candidates']:.2%} | {r['changed_commits']:.2%} | {r['mean_kl']:.1e} | "
                    f"{r['max_kl']:.2g} |",
                    flush=True,
                )
                store(
                    options.out,
                    {"bench": "policies", "decoder": decoder, **facts, **vars(options), **r} | {"out": None},
                )


if __name__ == "__main__":
    run_to_the_end(main)
