"""What a forward of a constrained answer costs beside one of a free answer, with a vocabulary of 126,464 tokens.

    python -m benchmarks.bench_constraint [--shapes s] [--batches 1,16] [--threads 1] [--repeats 5]

Answers of one block of 32 tokens, dual cache, bfloat16, random weights, a tokenizer of random words. A free answer
takes one token a step; `one row` is a free answer whose last token alone is open, which needs the logits of one row as
a constrained one does. Each constrained answer reads its grammar for the first time. Processor time, divided by the
forwards that ran.
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer, decoders, models

from benchmarks.harness import ROOT, environment, interleave, run_to_the_end, store
from benchmarks.shapes import BLOCK_LENGTH, EIGHT_B, PROMPT_LENGTH, SHAPES, Shape
from llada_rt import Engine, SamplingParams

LETTERS = "etaoinshrdlcumwfgypbvkjxqzETAOINSHR"
GRAMMARS = {
    "any text": ".{1,400}",
    "no quotes": '[^"]*',
    "digits": "[0-9]{32}",
    "words": r"[a-z]+( [a-z]+){0,40}",
    "object": r'\{"n":"[^"]{1,40}","age":[0-9]{1,3}(,"t":"[a-z]{1,12}"){0,4}\}',
}
PARAMS = SamplingParams(preset="quality", gen_length=BLOCK_LENGTH, block_length=BLOCK_LENGTH, cache="dual")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Characters, numbers and words of random letters, up to the two special tokens of the shapes."""
    rng = random.Random(0)
    texts = dict.fromkeys(map(chr, range(32, 127)))
    texts |= dict.fromkeys(f"{number:0{digits}}" for digits in (2, 3) for number in range(10**digits))
    while len(texts) < vocab_size - 2:
        texts[rng.choice(("", " ", " ", " ")) + "".join(rng.choices(LETTERS, k=rng.randint(2, 9)))] = None
    special = ["<eos>", "<mask>"]
    pieces = [*((text, -1.0 - (len(text) == 1)) for text in texts), *((name, -99.0) for name in special)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))


def measure(shape: Shape, folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    with Engine(folder, compute_type="bfloat16", threads=options.threads, max_num_seqs=max(options.batches)) as engine:
        prompt = {"prompt_token_ids": shape.text(PROMPT_LENGTH)}
        engine.generate(prompt, PARAMS.replace(regex="a|b"))  # the alphabet is made
        for batch in options.batches:
            forwards: dict[str, int] = {}

            def run(name: str, asked: dict, params: SamplingParams, batch: int = batch, told: dict = forwards) -> None:
                before = engine.stats().num_forwards
                engine.generate([asked] * batch, params)
                told[name] = engine.stats().num_forwards - before

            pinned = {**prompt, "pinned": dict.fromkeys(range(BLOCK_LENGTH - 1), 5)}
            runs: dict[str, Callable[[], object]] = {
                "free": partial(run, "free", prompt, PARAMS),
                "one row": partial(run, "one row", pinned, PARAMS),
            }
            runs |= {name: partial(run, name, prompt, PARAMS.replace(regex=regex)) for name, regex in GRAMMARS.items()}
            timings = interleave(runs, repeats=options.repeats)
            cost = {name: 1e3 * timing.cpu_s / forwards[name] for name, timing in timings.items()}
            for name in runs:
                yield {
                    "shape": shape.name,
                    "vocab_size": shape.vocab_size,
                    "batch": batch,
                    "answer": name,
                    "forwards": forwards[name],
                    "cpu_ms": cost[name],
                    "ratio": cost[name] / cost["free"],
                    **timings[name].noise,
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s")
    parser.add_argument("--batches", type=lambda text: [int(each) for each in text.split(",")], default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_constraint.jsonl")
    options = parser.parse_args()
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print("\n| shape | batch | answer | forwards | CPU ms a forward | of a free one |\n|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        shape = replace(SHAPES[name], vocab_size=EIGHT_B.vocab_size)
        with tempfile.TemporaryDirectory() as folder:
            shape.write(Path(folder))
            write_tokenizer(Path(folder), shape.vocab_size)
            for r in measure(shape, Path(folder), options):
                print(
                    f"| {r['shape']} | {r['batch']} | {r['answer']} | {r['forwards']} | {r['cpu_ms']:.1f} | "
                    f"{r['ratio']:.2f}x |",
                    flush=True,
                )
                store(options.out, {"bench": "constraint", **facts, **r})


if __name__ == "__main__":
    run_to_the_end(main)
