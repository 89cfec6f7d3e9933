"""Tokens a second of the trainer, beside a hand-written loop on the same model and the same batches in the same run.

    python -m benchmarks.bench_training [--shape 256x4] [--rows 32] [--length 128] [--steps 8] [--threads 1]

Three loops, interleaved, `--steps` steps each a round: `trainer` is Trainer.run with everything it does but the
checkpoint, which is timed by itself; `plain` is what a careful person writes in thirty lines: the same forward process,
logits of hidden tokens only, AdamW, clipping, bf16 autocast; `guidelines` computes the logits of every position, as
the published sketch does. First the losses of all three are held against each other.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import ROOT, environment, interleave, run_to_the_end, store
from benchmarks.noise import because
from training.config import TrainConfig
from training.data import Batch, Noise
from training.masking import forward_process
from training.model import LLaDA, ModelConfig
from training.objectives import MaskedObjective
from training.trainer import Trainer

VOCAB, MASK_ID, EOS_ID = 4096, 2, 1


class RandomBatches:
    """Texts of random tokens: their content does not change the time."""

    data_hash = "random"

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length, self.noise = rows, length, Noise(0)

    def num_rows(self, step: int) -> int:
        return self.rows

    def part(self, step: int, rows: range) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=[1, step]))
        tokens = torch.from_numpy(rng.integers(6, VOCAB, (self.rows, self.length)))[rows.start : rows.stop]
        draws = self.noise.draws(step, rows, self.length)
        ids = torch.arange(rows.start, rows.stop)
        return Batch(
            tokens, torch.ones_like(tokens, dtype=torch.bool), draws, self.noise.times(step, self.rows, rows), ids
        )


class HandWritten:
    """A loop as people write it. all_logits: of every position, as in LLaDA's guidelines."""

    def __init__(self, model: LLaDA, batches: RandomBatches, config: TrainConfig, *, all_logits: bool) -> None:
        self.model, self.batches, self.config, self.all_logits = model, batches, config, all_logits
        self.optimizer = torch.optim.AdamW(model.parameters(), config.lr, config.betas, weight_decay=0.0, fused=True)
        self.step = 0

    def run(self, num_steps: int) -> list[float]:
        losses = []
        self.model.train()
        for _ in range(num_steps):
            batch = self.batches.part(self.step, range(self.batches.rows))
            noised = forward_process(batch.tokens, batch.times, batch.draws, mask_id=MASK_ID)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
                if self.all_logits:
                    logits = self.model(noised.tokens)[noised.masked]
                else:
                    logits = self.model(noised.tokens, noised.masked)
            losses_of_tokens = F.cross_entropy(logits.float(), batch.tokens[noised.masked], reduction="none")
            loss = (losses_of_tokens * noised.weight[noised.masked]).sum() / batch.tokens.numel()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            self.step += 1
        return losses


def make_model(shape: str) -> LLaDA:
    d_model, n_layers = map(int, shape.split("x"))
    heads = d_model // 64
    sizes: dict[str, Any] = {
        "d_model": d_model,
        "n_layers": n_layers,
        "n_heads": heads,
        "n_kv_heads": heads,
        "mlp_hidden_size": 3 * d_model,
    }
    ids: dict[str, Any] = {"mask_token_id": MASK_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
    model = LLaDA(ModelConfig(**sizes, **ids, vocab_size=VOCAB))
    model.initialize(torch.Generator().manual_seed(0))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="256x4", help="d_model x layers")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of each loop in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = TrainConfig(
        seed=0, steps=10**6, lr=1e-3, warmup_steps=0, decay_share=0.0, counted_masks=False, log_every=25
    )
    batches, steps = RandomBatches(arguments.rows, arguments.length), arguments.steps
    plain = HandWritten(make_model(arguments.shape), batches, config, all_logits=False)
    guidelines = HandWritten(make_model(arguments.shape), batches, config, all_logits=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(make_model(arguments.shape), batches, MaskedObjective(MASK_ID), config, Path(folder))
        trainer.progress.record = lambda record: None  # type: ignore[method-assign]  # the others print nothing either
        save, trainer.save = trainer.save, lambda: None  # type: ignore[method-assign]
        ours = trainer.run(4)[-1]["loss"]
        theirs, published = (sum(loop.run(4)) / 4 for loop in (plain, guidelines))
        assert abs(ours - theirs) < 1e-5 * theirs, (ours, theirs)
        assert abs(ours - published) < 1e-2 * published, (ours, published)  # other rounding of a bf16 head

        timings = interleave(
            {
                "trainer": lambda: trainer.run(trainer.step + steps),
                "plain": lambda: plain.run(steps),
                "guidelines": lambda: guidelines.run(steps),
            },
            repeats=arguments.repeats,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        save()
        blocked = time.perf_counter() - wall
        trainer.checkpoints.wait()
        checkpoint = {"blocked_ms": 1e3 * blocked, "cpu_ms": 1e3 * (time.process_time() - cpu)}

    facts = environment(arguments.threads)
    print(" ".join(f"{key}={value}" for key, value in facts.items()))
    print(
        f"{arguments.shape}, {trainer.num_parameters:,} parameters, {arguments.rows} rows of {arguments.length} tokens"
    )
    tokens = steps * arguments.rows * arguments.length
    for name, timing in timings.items():
        record = {
            "benchmark": "training",
            "shape": arguments.shape,
            "loop": name,
            "tokens_per_s": tokens / timing.wall_s,
            "tokens_per_cpu_s": tokens / timing.cpu_s,
            "cpu_of_plain": timing.cpu_s / timings["plain"].cpu_s,
            **timing.noise,
        }
        store(ROOT / "runs" / "bench_training.jsonl", {**record, **facts})
        print(
            f"{name:10} {record['tokens_per_s']:8,.0f} tokens/s  {record['tokens_per_cpu_s']:8,.0f} a CPU second  "
            f"{record['cpu_of_plain']:.3f} of plain's CPU time  spread {timing.spread:.0%}{because(record)}"
        )
    print(f"checkpoint: the loop waits {checkpoint['blocked_ms']:.0f} ms, {checkpoint['cpu_ms']:.0f} ms of CPU in all")


if __name__ == "__main__":
    run_to_the_end(main)
