"""The reversal experiment: a model that learnt "A, B" is asked what comes before B.

    python -m training.experiments.reversal --out runs/reversal                 # the experiment; --quick: a miniature
    python -m training.experiments.reversal --protocol paper --model MODEL_DIR  # the paper's questions to a model

LLaDA's paper reports that masked diffusion models (MDM) do not suffer the reversal curse of autoregressive ones (ARM).
Here both have the same backbone, rows, optimiser and number of epochs. Every couplet is read in its order,
`[NAT] A，B。`. With half of them, the *taught* ones, both directions are practised as tasks, `[NEXT] A，B。` and
`[PREV] B，A。`. Asked are the others, whose "B, then A" never occurs in training:

    [NAT] A，  -> B        forward: is the couplet known by heart? Only then do the others mean anything
    [NEXT] A， -> B        forward, as a task
    [PREV] B， -> A        backward, as a task learnt on other couplets: the reversal
    [NAT] ____，B。        backward by filling the place where A stood; an ARM has no such request
    [NAT] B，  -> A        the control: a bare swapped prompt. A is nowhere in the question and nowhere in the training
                           rows behind this prefix, so nothing should be found

A ranking shows what the ARM does know: of twenty first lines, which one has the highest joint probability with B?
The final figures of the MDM come from the runtime, through its public interface.
"""

import argparse
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from training import sampling
from training.arm import log_likelihoods
from training.config import TrainConfig, make, read_toml
from training.data import BatchConfig, RowBatches
from training.experiments.reversal_report import write_report
from training.model import LLaDA
from training.model_folder import ExportConfig, export_model
from training.objectives import MaskedObjective, NextTokenObjective
from training.recipe import ModelSizes
from training.rows import RowConfig, RowEncoder
from training.store import TokenStore
from training.tasks.verse import QUESTIONS, VerseBook, read_poems
from training.tokenization import EOS_TOKEN, build_tokenizer, token_id
from training.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "reversal.toml"
NAT, NEXT, PREV = TAGS = ("[NAT]", "[NEXT]", "[PREV]")
COMMA, STOP = "，", "。"
MEMORISED = 0.95  # share of the asked couplets that must be recited forward before a comparison means anything
NUM_RANKED = 20

Kind = Literal["arm", "mdm"]
KINDS: tuple[Kind, ...] = ("arm", "mdm")
Couplet = tuple[str, str]  # two lines, without punctuation


@dataclass(frozen=True, slots=True, kw_only=True)
class ReversalConfig:
    num_couplets: int  # half of them taught, half asked
    seeds: Sequence[int]  # each draws other couplets, weights, order and noise
    epochs: int  # the same for both models
    num_evaluations: int  # along the way, at epochs spaced by equal factors
    batch_rows: int
    d_model: int
    n_layers: int
    n_heads: int
    mlp_hidden_size: int
    lr: float  # of AdamW: embedding and norms
    matrix_lr: float  # of Muon: the matrices
    decay_share: float  # of the steps, at the end: learning rate falls to zero

    def __post_init__(self) -> None:
        if self.num_couplets < 4 or self.num_couplets % 2:
            raise ValueError(f"num_couplets: expected an even number from 4, got {self.num_couplets}")


QUICK: dict[str, Any] = {
    "num_couplets": 8,
    "seeds": (0,),
    "epochs": 600,
    "num_evaluations": 6,
    "d_model": 64,
    "n_layers": 2,
}


@dataclass(frozen=True, slots=True)
class Question:
    """A canvas and the line that belongs into its masks. `surface`: one of the five ways of asking."""

    surface: str
    text: str  # "_" is a mask
    answer: str


@dataclass(frozen=True)
class Experiment:
    """The couplets of one seed, the rows made of them and the questions."""

    taught: tuple[Couplet, ...]
    asked: tuple[Couplet, ...]

    @classmethod
    def draw(cls, num_couplets: int, seed: int) -> "Experiment":
        """Five-character couplets of the committed poems. A line stands in one couplet only, so each has one answer."""
        couplets: list[Couplet] = []
        seen: set[str] = set()
        for poem in read_poems():
            lines = poem.bare_lines
            for first, second in zip(lines[::2], lines[1::2], strict=False):
                if len(first) == len(second) == 5 and not {first, second} & seen:
                    couplets.append((first, second))
                    seen |= {first, second}
        if num_couplets > len(couplets):
            raise ValueError(f"num_couplets: expected at most {len(couplets)}, got {num_couplets}")
        chosen = random.Random(seed).sample(couplets, num_couplets)
        return cls(tuple(chosen[: num_couplets // 2]), tuple(chosen[num_couplets // 2 :]))

    def rows(self) -> list[dict[str, str]]:
        """The training rows: a tag that is never hidden, and a couplet of which everything may be."""
        both = (*self.taught, *self.asked)
        rows = [(NAT, a, b) for a, b in both] + [(NEXT, a, b) for a, b in self.taught]
        rows += [(PREV, b, a) for a, b in self.taught]
        return [{"prompt": tag, "answer": f"{x}{COMMA}{y}{STOP}"} for tag, x, y in rows]

    def questions(self) -> list[Question]:
        """Every surface for every asked couplet; the backward task for the taught ones too: has it been learnt?"""

        def after(surface: str, tag: str, given: str, answer: str) -> Question:
            return Question(surface, f"{tag}{given}{COMMA}{'_' * (len(answer) + 1)}", answer)

        found = []
        for a, b in self.asked:
            found.append(after("forward", NAT, a, b))
            found.append(after("forward task", NEXT, a, b))
            found.append(after("backward task", PREV, b, a))
            found.append(Question("backward infilling", f"{NAT}{'_' * len(a)}{COMMA}{b}{STOP}", a))
            found.append(after("control", NAT, b, a))
        return found + [after("backward task, taught", PREV, b, a) for a, b in self.taught]

    def tokenizer(self) -> Tokenizer:
        return build_tokenizer((row["answer"] for row in self.rows()), TAGS)


# ------------------------------------------------------------------------------------------------------- asking


def canvas_of(tokenizer: Tokenizer, question: Question, mask_id: int) -> list[int]:
    """Token ids of the question, one mask for each hole, and the end token that every training row has."""
    eos_id = token_id(tokenizer, EOS_TOKEN)
    hole = tokenizer.token_to_id("_")
    ids = tokenizer.encode(question.text, add_special_tokens=False).ids
    return [mask_id if token == hole else token for token in ids] + [eos_id]


@torch.no_grad()
def fill_from_left(model: LLaDA, canvases: Sequence[Sequence[int]]) -> list[list[int]]:
    """The ARM's greedy answers: the masks of each canvas, which stand after a prefix, one by one."""
    tokens = torch.tensor(canvases)  # (questions, length)
    hidden = tokens == model.config.mask_token_id
    for place in range(1, tokens.shape[1]):
        if hidden[:, place].any():
            best = model(tokens[:, :place])[:, -1].argmax(-1)
            tokens[:, place] = torch.where(hidden[:, place], best, tokens[:, place])
    return tokens.tolist()


def fill_by_runtime(folder: Path, canvases: Sequence[Sequence[int]]) -> list[list[int]]:
    """The MDM's answers through the public interface: low-confidence remasking, one token a step."""
    from llada_rt import Engine, SamplingParams

    with Engine(str(folder), compute_type="float32") as engine:
        prompts = [{"segments": segments(canvas, engine.mask_token_id)} for canvas in canvases]
        holes = [list(canvas).count(engine.mask_token_id) for canvas in canvases]
        lengths = [len(canvas) for canvas in canvases]
        params = [
            SamplingParams(gen_length=length, block_length=length, steps=count)
            for length, count in zip(lengths, holes, strict=True)
        ]
        return [list(output.outputs[0].token_ids) for output in engine.generate(prompts, params)]


def segments(canvas: Sequence[int], mask_id: int) -> list[list[int] | int]:
    """Runs of given ids, and the number of masks of each hole."""
    runs = itertools.groupby(canvas, key=lambda token: token == mask_id)
    return [len(list(run)) if hidden else list(run) for hidden, run in runs]


Fill = Callable[[Sequence[Sequence[int]]], list[list[int]]]  # canvases -> the same without masks


def shares_right(questions: Sequence[Question], tokenizer: Tokenizer, mask_id: int, fill: Fill) -> dict[str, float]:
    """Share of the questions of each surface whose five characters came back exactly."""
    canvases = [canvas_of(tokenizer, question, mask_id) for question in questions]
    asked: dict[str, list[bool]] = {}
    for question, canvas, filled in zip(questions, canvases, fill(canvases), strict=True):
        first = canvas.index(mask_id)
        answer = tokenizer.decode(filled[first : first + len(question.answer)], skip_special_tokens=False)
        asked.setdefault(question.surface, []).append(answer == question.answer)
    return {surface: sum(right) / len(right) for surface, right in asked.items()}


def ranking(model: LLaDA, experiment: Experiment, tokenizer: Tokenizer) -> float:
    """How often the right first line has the highest joint likelihood with B among `NUM_RANKED` of them (an ARM)."""
    rng = random.Random(0)
    lines = [a for a, _ in experiment.asked]
    rows = []
    for a, b in experiment.asked:
        others = rng.sample([line for line in lines if line != a], min(NUM_RANKED, len(lines)) - 1)
        rows.append([f"{NAT}{line}{COMMA}{b}{STOP}" for line in (a, *others)])
    ids: list[tuple[list[int], list[int]]] = [
        ([], tokenizer.encode(text, add_special_tokens=False).ids) for texts in rows for text in texts
    ]
    values = torch.tensor(log_likelihoods(model, ids)).view(len(rows), -1)  # (asked, ranked): the right one first
    return (values.argmax(1) == 0).double().mean().item()


# ------------------------------------------------------------------------------------------------------- training


def run_one(config: ReversalConfig, seed: int, kind: Kind, folder: Path) -> dict[str, Any]:
    """Train one model and ask it along the way. Goes on where it was cut; a finished run is read from its folder."""
    finished = folder / "result.json"
    if finished.exists():
        result = json.loads(finished.read_text(encoding="utf-8"))
        if result["config"] != json.loads(json.dumps(asdict(config))):
            raise ValueError(f"{folder} holds a run of another configuration; take another --out")
        return result
    experiment = Experiment.draw(config.num_couplets, seed)
    tokenizer = experiment.tokenizer()
    model = make_model(config, seed, tokenizer, causal=kind == "arm")
    trainer = make_trainer(config, seed, experiment, tokenizer, model, folder)
    mask_id = model.config.mask_token_id
    questions = [q for q in experiment.questions() if kind == "mdm" or q.surface != "backward infilling"]
    fill: Fill = partial(fill_from_left if kind == "arm" else sampling.infill, model)

    trainer.resume()
    record = folder / "curve.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    curve = [point for point in map(json.loads, lines) if point["step"] <= trainer.step]
    steps_per_epoch = trainer.config.steps // config.epochs
    for epoch in evaluation_epochs(config):
        if epoch * steps_per_epoch <= (curve[-1]["step"] if curve else 0):
            continue
        trainer.run(epoch * steps_per_epoch)
        if trainer.interrupted:
            raise KeyboardInterrupt
        model.eval()
        with torch.no_grad():
            shares = shares_right(questions, tokenizer, mask_id, fill)
        curve.append({"epoch": epoch, "step": trainer.step, "cpu_s": round(trainer.cpu_s, 1), "right": shares})
        record.write_text("".join(json.dumps(point) + "\n" for point in curve), encoding="utf-8")

    final = dict(curve[-1]["right"])
    if kind == "mdm":
        export = ExportConfig(name=f"reversal, seed {seed}", dtype="float32", gen_length=8, steps=8, block_length=8)
        export_model(model, tokenizer, folder / "model", export, overwrite=True, is_chat=False)
        final = shares_right(questions, tokenizer, mask_id, partial(fill_by_runtime, folder / "model"))
    else:
        final["ranking"] = ranking(model, experiment, tokenizer)
    result = {
        "config": asdict(config),
        "kind": kind,
        "seed": seed,
        "parameters": model.num_parameters,
        "rows": len(experiment.rows()),
        "cpu_s": round(trainer.cpu_s, 1),
        "memorised_epoch": next((p["epoch"] for p in curve if p["right"]["forward"] >= MEMORISED), None),
        "final": final,
        "curve": curve,
    }
    finished.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def make_model(config: ReversalConfig, seed: int, tokenizer: Tokenizer, *, causal: bool) -> LLaDA:
    sizes = ModelSizes(
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_heads,
        mlp_hidden_size=config.mlp_hidden_size,
        max_sequence_length=64,
        weight_tying=True,
        causal=causal,
    )
    model = LLaDA(sizes.config(tokenizer))
    model.initialize(torch.Generator().manual_seed(seed))
    return model


def make_trainer(
    config: ReversalConfig, seed: int, experiment: Experiment, tokenizer: Tokenizer, model: LLaDA, folder: Path
) -> Trainer:
    encoder = RowEncoder(tokenizer, RowConfig())
    store = TokenStore.from_rows(encoder.rows(("couplets", row) for row in experiment.rows()), tokenizer)
    eos_id = token_id(tokenizer, EOS_TOKEN)
    batches = RowBatches(store, BatchConfig(batch_rows=config.batch_rows), seed=seed, eos_id=eos_id)
    steps = config.epochs * batches.steps_per_epoch
    train = TrainConfig(
        seed=seed,
        steps=steps,
        lr=config.lr,
        matrix_lr=config.matrix_lr,
        weight_decay=0.01,
        decay_share=config.decay_share,
        bf16=False,
        log_every=max(1, steps // 50),
        checkpoint_every=steps,
    )
    objective = (
        NextTokenObjective(eos_id=eos_id)
        if model.config.causal
        else MaskedObjective(mask_id=model.config.mask_token_id, counted=train.counted_masks)
    )
    return Trainer(model, batches, objective, train, folder)


def evaluation_epochs(config: ReversalConfig) -> list[int]:
    """From the second epoch to the last, by equal factors."""
    exponents = [index / (config.num_evaluations - 1) for index in range(config.num_evaluations)]
    return sorted({round(2 * (config.epochs / 2) ** exponent) for exponent in exponents})


# ------------------------------------------------------------------------------------------------- the paper's protocol


def paper_pairs(path: Path | None) -> list[Couplet]:
    """(line, next line): of the published list, a JSON array of {"first", "second"}, or of the demo's poems."""
    if path is None:
        return [(lines[0], lines[1]) for poem in VerseBook.select(max_chars=64).poems if (lines := poem.bare_lines)]
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("first"), str) and isinstance(entry.get("second"), str)
        for entry in entries
    ):
        raise ValueError(f'{path}: expected a JSON array of objects with "first" and "second"')
    return [(entry["first"], entry["second"]) for entry in entries]


def paper_protocol(folder: Path | None, pairs: Sequence[Couplet]) -> dict[str, float]:
    """LLaDA's poem completion (arXiv 2502.09992, section 3.3): share of answers that contain the line asked for.

    Its wording, chat form, 28 answer tokens as one block in 28 steps, temperature 0, end token suppressed.
    """
    from llada_rt import Engine, SamplingParams

    params = SamplingParams(gen_length=28, block_length=28, steps=28, temperature=0.0, logits_eos_inf=True)
    questions = {"forward": [(a, b) for a, b in pairs], "reversal": [(b, a) for a, b in pairs]}
    wording = {"forward": QUESTIONS["next_line"][0], "reversal": QUESTIONS["previous_line"][0]}
    shares = {}
    with Engine(*([str(folder)] if folder else [])) as engine:
        for direction, asked in questions.items():
            texts = [wording[direction].format(line=given) for given, _ in asked]
            outputs = engine.generate([{"messages": [{"role": "user", "content": text}]} for text in texts], params)
            right = [answer in output.text for (_, answer), output in zip(asked, outputs, strict=True)]
            shares[direction] = sum(right) / len(right)
    return {"pairs": len(pairs), **shares}


# ------------------------------------------------------------------------------------------------------- the command


def run_experiment(config: ReversalConfig, out: Path) -> list[dict[str, Any]]:
    """Both models of every seed, then results.json, table.md, reversal.png and reversal.svg."""
    results = [run_one(config, seed, kind, out / f"{kind}-{seed}") for seed in config.seeds for kind in KINDS]
    write_report(results, out, memorised=MEMORISED)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the experiment; the same command goes on where it was cut")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="TOML with the fields of ReversalConfig")
    parser.add_argument("--quick", action="store_true", help="eight couplets, one seed, a minute: only to see it run")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the models are too small for many")
    parser.add_argument("--protocol", choices=["couplets", "paper"], default="couplets")
    parser.add_argument(
        "--model", type=Path, help="with --protocol paper: folder of a finished model; default: the demo model"
    )
    parser.add_argument("--poems", type=Path, help="with --protocol paper: the published poem_data.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        if arguments.protocol == "paper":
            print(json.dumps(paper_protocol(arguments.model, paper_pairs(arguments.poems))))
            return
        if arguments.out is None:
            raise ValueError("--out: expected a folder, got none")
        config = make(ReversalConfig, read_toml(arguments.recipe), str(arguments.recipe))
        run_experiment(replace(config, **QUICK) if arguments.quick else config, arguments.out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print((arguments.out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
