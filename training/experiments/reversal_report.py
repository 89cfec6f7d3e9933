"""What the reversal experiment found, as a table and as a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = {  # surface -> what the table calls it
    "forward": "forward, `[NAT] A，` → B (memorised?)",
    "forward task": "forward as a task, `[NEXT] A，` → B",
    "backward task": "**backward as a task, `[PREV] B，` → A**",
    "backward infilling": "**backward by infilling, `[NAT] ____，B。`**",
    "control": "control: bare swapped prompt, `[NAT] B，` → A",
    "backward task, taught": "backward task on the couplets it was taught with",
    "ranking": "right A among twenty by joint likelihood with B",
}
NAMES = {"arm": "ARM", "mdm": "MDM"}
CURVES = (  # (kind, surface, label, colour, dashes)
    ("mdm", "forward", "MDM forward", "#4c78a8", (4, 2)),
    ("mdm", "backward infilling", "MDM backward, infilling", "#72b7b2", ()),
    ("mdm", "backward task", "MDM backward, task", "#1f4e79", ()),
    ("arm", "forward", "ARM forward", "#f58518", (4, 2)),
    ("arm", "backward task", "ARM backward, task", "#b2410d", ()),
    ("mdm", "control", "control, MDM", "#777777", (1, 2)),
)


def cell(values: Sequence[float]) -> str:
    """Mean of the seeds in per cent, and what they lie between."""
    if not values:
        return "—"
    mean, low, high = (100 * x for x in (sum(values) / len(values), min(values), max(values)))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})" if len(values) > 1 else f"{mean:.1f}"


def table(results: Sequence[dict[str, Any]], memorised: float) -> str:
    """Markdown: a row for each way of asking, a column for each model, means over seeds."""
    groups = {kind: [r for r in results if r["kind"] == kind] for kind in NAMES}
    config = results[0]["config"]
    lines = [
        f"Share of {config['num_couplets'] // 2} couplets answered exactly, per cent: mean over "
        f"{len(config['seeds'])} seeds (lowest to highest), after {config['epochs']} epochs each.",
        "",
        "| | ARM | MDM |",
        "| --- | --- | --- |",
    ]
    for surface, name in ROWS.items():
        values = {kind: [r["final"][surface] for r in group if surface in r["final"]] for kind, group in groups.items()}
        lines.append(f"| {name} | {cell(values['arm'])} | {cell(values['mdm'])} |")
    epochs = {kind: ", ".join(str(r["memorised_epoch"] or "never") for r in group) for kind, group in groups.items()}
    lines.append(
        f"| first evaluation with {memorised:.0%} forward, epoch of each seed | {epochs['arm']} | {epochs['mdm']} |"
    )
    for name, key in (("parameters", "parameters"), ("CPU seconds a model", "cpu_s")):
        shown = {
            kind: f"{sum(r[key] for r in group) / len(group):,.0f}" if group else "—" for kind, group in groups.items()
        }
        lines.append(f"| {name} | {shown['arm']} | {shown['mdm']} |")
    late = [f"{NAMES[r['kind']]} seed {r['seed']}" for r in results if r["final"]["forward"] < memorised]
    if late:
        lines += ["", f"**Not memorised, so not comparable: {', '.join(late)}.** More epochs are needed."]
    return "\n".join(lines) + "\n"


def draw(results: Sequence[dict[str, Any]], out: Path) -> None:
    """reversal.png and reversal.svg: accuracy against epochs, mean of the seeds and the band they lie in."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    matplotlib.rcParams["svg.hashsalt"] = "reversal"  # the same results, the same file
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), constrained_layout=True)
    for kind, surface, label, color, dashes in CURVES:
        runs = [r["curve"] for r in results if r["kind"] == kind]
        if not runs:
            continue
        epochs = [point["epoch"] for point in runs[0]]
        points = [[100 * run[i]["right"][surface] for run in runs] for i in range(len(epochs))]  # (epochs, seeds)
        style: dict[str, Any] = {"dashes": dashes} if dashes else {}
        axes.plot(epochs, [sum(p) / len(p) for p in points], color=color, label=label, linewidth=1.8, **style)
        axes.fill_between(epochs, [min(p) for p in points], [max(p) for p in points], color=color, alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="epochs", ylabel="answered exactly, %", ylim=(-3, 103))
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.minorticks_off()
    axes.set_title("Couplets learnt as “A, B”: what comes before B?", loc="left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(0.0, 0.55), frameon=False, fontsize=9)
    figure.savefig(out / "reversal.png", dpi=150, metadata={"Software": None})
    figure.savefig(out / "reversal.svg", metadata={"Date": None})
    pyplot.close(figure)


def write_report(results: Sequence[dict[str, Any]], out: Path, *, memorised: float) -> None:
    """results.json, table.md, reversal.png, reversal.svg."""
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (out / "table.md").write_text(table(results, memorised), encoding="utf-8")
    draw(results, out)
