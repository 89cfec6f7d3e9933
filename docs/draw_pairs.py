"""Draw docs/pairs.svg from training/recipes/results:  python docs/draw_pairs.py"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "training" / "recipes" / "results"
STYLES = {"mdm": ("masked diffusion model", "tab:blue"), "arm": ("autoregressive model", "tab:orange")}
PANELS = {  # file -> title
    "sudoku_pair": "4x4 sudoku, grids that training never showed",
    "verse_pair": "the next line, 322 poems by heart",
}


def share(point: dict[str, float]) -> float:
    """Where the counts of a curve were not kept, the share alone is there."""
    return point["share"] if "share" in point else point["right"] / point["asked"]


def main() -> None:
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for kind, (label, color) in STYLES.items():
            curve = results[kind]["curve"]
            axis.plot(
                [point["tokens"] / 1e6 for point in curve],
                [100 * share(point) for point in curve],
                marker="o",
                markersize=3,
                color=color,
                label=label,
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("tokens seen, millions")
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("answered exactly, %")
    axes[0].legend(fontsize=9, loc="lower right")
    figure.savefig(ROOT / "docs" / "pairs.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
