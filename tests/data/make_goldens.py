"""Makes `checkpoint/` (random weights in the published layout, GQA), `goldens.json` (the reference's runs of it) and
`decoder_goldens.json` (those of the rules that commit several tokens a step).

    python -m tests.data.make_goldens

A case stays only if its tokens survive relative changes of 3e-6 in every weight: no case hangs on a rounding tie. The
head rows of EOS and of the mask are longer than the others: the EOS switches matter and the mask sometimes wins.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.reference.denoise import Params, Run, SpecialIds, denoise
from tests.reference.forward import Model

DATA = Path(__file__).resolve().parent
CHECKPOINT, GOLDENS, DECODER_GOLDENS = DATA / "checkpoint", DATA / "goldens.json", DATA / "decoder_goldens.json"
IDS = SpecialIds(mask=156, eos=157, eot=158)
CONFIG = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_size": 160,
    "eos_token_id": IDS.eos,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": IDS.mask,
    "max_sequence_length": 128,
    "mlp_hidden_size": 72,
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "pad_token_id": IDS.eos,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 10000.0,
    "scale_logits": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_size": 160,
    "weight_tying": False,
}
PROMPT_LENGTHS = (1, 6, 15, 17)
CACHES = ("none", "prefix", "dual")
SCHEDULE = {"steps": 12, "gen_length": 24, "block_length": 8}
PARALLEL = {"steps": 24, "gen_length": 24, "block_length": 8}
NOISY = {**SCHEDULE, "temperature": 0.8}
GROUPS: list[dict] = [
    *(
        {**SCHEDULE, "cache": c, "remasking": score}
        for c in CACHES
        for score in ("low_confidence", "margin", "entropy")
    ),
    *({**PARALLEL, "cache": c, "threshold": tau} for c in CACHES for tau in (0.3, 0.6, 0.9)),
    *({**PARALLEL, "cache": c, "factor": f} for c in CACHES for f in (0.5, 1.0)),
    *({**SCHEDULE, "cache": c, "cfg_scale": 0.7} for c in CACHES),
    {**PARALLEL, "cache": "dual", "threshold": 0.6, "cfg_scale": 1.5},
    *({**NOISY, "cache": c, "seed": seed} for c, seed in zip(CACHES, (0, 1, 2**63 - 1), strict=True)),
    {**PARALLEL, "cache": "dual", "threshold": 0.6, "temperature": 0.5, "seed": 5, "remasking": "margin"},
    *({**SCHEDULE, "cache": c, "remasking": "random", "seed": 11} for c in ("none", "dual")),
    {**NOISY, "remasking": "random", "seed": 12, "cfg_scale": 0.7},
    {**SCHEDULE, "logits_eos_inf": True},
    {**SCHEDULE, "confidence_eos_eot_inf": True},
    {**PARALLEL, "cache": "prefix", "threshold": 0.6, "logits_eos_inf": True, "confidence_eos_eot_inf": True},
    {"steps": 24, "gen_length": 24, "block_length": 24},
    {"steps": 5, "gen_length": 20, "block_length": 20, "cache": "dual"},
    {"steps": 40, "gen_length": 16, "block_length": 8},
    {"steps": 10, "gen_length": 22, "block_length": 8, "cache": "dual", "propose_mask": False},
    {**PARALLEL, "cache": "prefix", "threshold": 0.6, "propose_mask": False},
]
HOLES = ((0, 5), (3, 9), (10, 30), (28, 30))  # of the infills, each beside (12, 20)
INFILL: list[dict] = [
    {"gen_length": 30, "propose_mask": False, **rest}
    for rest in (
        {"steps": 20, "block_length": 30},
        {"steps": 9, "block_length": 7, "cache": "dual"},
        {"steps": 30, "block_length": 7, "cache": "prefix", "threshold": 0.5},
        {"steps": 12, "block_length": 30, "cfg_scale": 0.5, "temperature": 0.3, "seed": 3},
    )
]


# Added later, with prompts drawn anew: what is above stays as it is. Some are long enough for vicinity's window to be
# less than the canvas, and for interval's fiftieth step.
LATER_CACHES = ("dual_compact", "vicinity", "interval")
LONG = {"steps": 56, "gen_length": 56, "block_length": 8}
LATER_GROUPS: list[dict] = [
    *(
        {**SCHEDULE, "cache": c, "remasking": score}
        for c in LATER_CACHES
        for score in ("low_confidence", "margin", "entropy")
    ),
    *({**LONG, "cache": c} for c in LATER_CACHES),
    *({**LONG, "cache": c, "threshold": tau} for c in LATER_CACHES for tau in (0.3, 0.9)),
    *({**PARALLEL, "cache": c, "factor": 1.0} for c in LATER_CACHES),
    *({**LONG, "cache": c, "cfg_scale": 0.7} for c in LATER_CACHES),
    *({**NOISY, "cache": c, "seed": 21} for c in LATER_CACHES),
    *({**SCHEDULE, "cache": c, "remasking": "random", "seed": 22, "cfg_scale": 1.5} for c in LATER_CACHES),
    *({"steps": 10, "gen_length": 22, "block_length": 8, "cache": c, "propose_mask": False} for c in LATER_CACHES),
    {**PARALLEL, "cache": "dual_compact", "threshold": 0.6, "confidence_eos_eot_inf": True, "propose_mask": False},
    {"steps": 24, "gen_length": 24, "block_length": 24, "cache": "dual_compact"},
]
LATER_INFILL: list[dict] = [
    *({"gen_length": 30, "steps": 20, "block_length": 7, "propose_mask": False, "cache": c} for c in LATER_CACHES),
    {
        "gen_length": 30,
        "steps": 9,
        "block_length": 30,
        "propose_mask": False,
        "cache": "dual_compact",
        "cfg_scale": 0.5,
    },
]

# The rules of later papers: each greedy, with values that commit few and many, and with a temperature.
RULES: dict[str, tuple[dict, ...]] = {
    "threshold": (
        {"threshold": 0.6, "threshold_alpha": 0.3},
        {"threshold": 0.5, "threshold_alpha": 1.0},
        {"threshold": 0.5, "threshold_alpha": 0.6, "temperature": 0.5, "seed": 31},
    ),
    "frechet": (
        {"frechet": 0.25, "cfg_scale": 0.7},
        {"frechet": 0.0},
        {"frechet": 0.05, "temperature": 0.3, "seed": 32, "cfg_scale": 1.5},
    ),
    "local_leap": (
        {"local_leap": 0.7, "local_leap_threshold": 0.3},
        {"local_leap": 0.5, "local_leap_threshold": 0.1, "local_leap_radius": 1},
        {"local_leap": 0.6, "local_leap_threshold": 0.2, "temperature": 0.5, "seed": 33},
    ),
    "entropy_bound": (
        {"entropy_bound": 1.5, "remasking": "entropy"},
        {"entropy_bound": 3.0, "remasking": "entropy"},
        {"entropy_bound": 2.0, "temperature": 0.5, "seed": 34},
    ),
}
RULE_GROUPS: list[dict] = [
    {**PARALLEL, "cache": c, **rule} for rules in RULES.values() for rule in rules for c in CACHES
] + [
    {**PARALLEL, "gen_length": 22, "cache": "dual", "cfg_scale": 0.7, "propose_mask": False, **rules[0]}
    for rules in RULES.values()
]
RULE_INFILL: list[dict] = [
    {"gen_length": 30, "steps": 30, "block_length": 7, "propose_mask": False, "cache": "prefix", **rules[1]}
    for rules in RULES.values()
]
# Blocks that end at a delimiter (AdaBlock): tokens that this checkpoint often writes.
BORDERS = {"steps": 40, "gen_length": 40, "block_length": 8, "propose_mask": False, "adablock": 0.02}
BORDER_GROUPS: list[dict] = [
    {**BORDERS, "cache": c, **rule}
    for rule in (
        {"adablock_token": 40},
        {"adablock_token": 103, "threshold": 0.5},
        {"adablock_token": 41, "temperature": 0.4, "seed": 35, "cfg_scale": 0.5},
        {"adablock_token": 84, "entropy_bound": 1.5, "remasking": "entropy", "block_length": 5},
    )
    for c in CACHES
]
BORDER_INFILL: list[dict] = [
    {
        **BORDERS,
        "gen_length": 30,
        "steps": 30,
        "block_length": 30,
        "adablock_token": 40,
        "cache": "dual",
        "frechet": 0.1,
    }
]
FILES = {
    GOLDENS: ((GROUPS, INFILL, 7), (LATER_GROUPS, LATER_INFILL, 8)),
    DECODER_GOLDENS: ((RULE_GROUPS, RULE_INFILL, 9), (BORDER_GROUPS, BORDER_INFILL, 10)),
}


def make_weights() -> dict[str, np.ndarray]:
    c, rng = CONFIG, np.random.Generator(np.random.PCG64(20261121))
    d, f, kv = c["d_model"], c["mlp_hidden_size"], c["d_model"] // c["n_heads"] * c["n_kv_heads"]

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.1 * rng.standard_normal(d)).astype(np.float32)

    weights = {"wte.weight": normal(c["vocab_size"], d, scale=5.0)}
    for b in (f"blocks.{layer}." for layer in range(c["n_layers"])):
        weights |= {b + "attn_norm.weight": norm(), b + "ff_norm.weight": norm()}
        weights |= {b + "q_proj.weight": normal(d, d, scale=1.5), b + "k_proj.weight": normal(kv, d, scale=1.5)}
        weights |= {b + "v_proj.weight": normal(kv, d), b + "attn_out.weight": normal(d, d)}
        weights |= {b + "ff_proj.weight": normal(f, d), b + "up_proj.weight": normal(f, d)}
        weights |= {b + "ff_out.weight": normal(d, f)}
    weights |= {"ln_f.weight": norm(), "ff_out.weight": normal(c["vocab_size"], d, scale=4.5)}
    weights["ff_out.weight"][[IDS.eos, IDS.mask]] *= [[1.6], [1.4]]
    return {"model.transformer." + name: value for name, value in weights.items()}


def canvases(file: Path) -> Iterator[tuple[dict, list[tuple[list[int], tuple[int, int]]]]]:
    """Parameters and the canvases (tokens, decoded positions) that run with them."""
    for groups, infills, seed in FILES[file]:
        rng = np.random.Generator(np.random.PCG64(seed))
        for params in groups:
            prompts = [rng.integers(0, IDS.mask, length).tolist() for length in PROMPT_LENGTHS]
            masks = [IDS.mask] * params["gen_length"]
            yield params, [([*prompt, *masks], (len(prompt), len(prompt) + len(masks))) for prompt in prompts]
        for params in infills:
            texts = [rng.integers(0, IDS.mask, 30) for _ in HOLES]
            for text, holes in zip(texts, HOLES, strict=True):
                text[[*range(*holes), *range(12, 20)]] = IDS.mask
            spans = [(min(first, 12), max(last, 20)) for first, last in HOLES]
            yield params, [(text.tolist(), span) for text, span in zip(texts, spans, strict=True)]


def shaken(model: Model, seed: int) -> Model:
    other, rng = Model(CHECKPOINT), np.random.Generator(np.random.PCG64(seed))
    other.weights = {k: w * (1 + 3e-6 * rng.standard_normal(w.shape)) for k, w in model.weights.items()}
    return other


def told(p: Params) -> dict:
    """The parameters of a group: these, and what differs from its default, so that a file does not change where
    parameters are added.
    """
    always = ("steps", "gen_length", "block_length", "temperature", "cfg_scale", "remasking", "cache", "logits_eos_inf")
    always += ("confidence_eos_eot_inf", "seed", "propose_mask")
    defaults = {spec.name: spec.default for spec in dataclasses.fields(Params)}
    return {k: v for k, v in dataclasses.asdict(p).items() if k in always or v != defaults[k]}


def record(run: Run, canvas: list[int], span: tuple[int, int]) -> dict:
    commits = [[*commit[:3], round(commit.confidence, 9)] for commit in run.commits]
    return {
        "canvas": canvas,
        "span": span,
        "output": run.canvas.tolist(),
        "num_forward": run.num_forward,
        "commits": commits,
    }


def main() -> None:
    CHECKPOINT.mkdir(exist_ok=True)
    (CHECKPOINT / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_file(make_weights(), CHECKPOINT / "model.safetensors", {"format": "pt"})
    for file in FILES:
        write(file, Model(CHECKPOINT))


def write(file: Path, model: Model) -> None:
    variants = [shaken(model, seed) for seed in range(4)]
    groups, dropped = [], 0
    for params, inputs in canvases(file):
        p, cases = Params(**params), []
        for canvas, span in inputs:
            runs = [denoise(m, np.array(canvas), span, p, IDS) for m in (model, *variants)]
            stable = all([c[:3] for c in run.commits] == [c[:3] for c in runs[0].commits] for run in runs)
            dropped += not stable
            cases += [record(runs[0], canvas, span)] if stable else []
        groups.append({"params": told(p), "cases": cases})
    lines = ",\n".join(json.dumps(group, separators=(",", ":")) for group in groups)
    file.write_text(f'{{"ids":{json.dumps(IDS._asdict())},"groups":[\n{lines}\n]}}\n')
    print(f"{sum(len(group['cases']) for group in groups)} cases kept, {dropped} dropped: {file.name}")


if __name__ == "__main__":
    main()
