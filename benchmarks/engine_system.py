"""llada_rt's Engine as a compared system: one open engine for all the settings of a model and a compute type."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.baselines.contract import Answer, Kind, Question, cut
from llada_rt import Engine, RequestOutput, SamplingParams
from llada_rt.options.precedence import PRESETS


class Engines:
    """Engines by what they were opened with; each closes with the last system that uses it."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Engine, int]] = {}

    def take(self, folder: Path, options: Mapping[str, Any]) -> tuple[Engine, bool, Callable[[], None]]:
        """An engine, whether it was open already, and what gives it back."""
        key = repr((folder, sorted(options.items())))
        engine, users = self._open.get(key) or (Engine(folder, **options), 0)
        self._open[key] = engine, users + 1

        def give_back() -> None:
            engine, count = self._open.pop(key)
            if count > 1:
                self._open[key] = engine, count - 1
            else:
                engine.close()

        return engine, users > 0, give_back


def params_for(options: Mapping[str, Any], gen_length: int) -> SamplingParams:
    """The options for an answer of this length; a block is never longer than it."""
    options = {"gen_length": gen_length, **options}
    block = options.get("block_length", PRESETS[options.get("preset", "reference")].get("block_length"))
    return SamplingParams(**options | {"block_length": min(block, gen_length) if block else None})


class EngineSystem:
    """The public API: token ids in, a SamplingParams for each length. `stop_ids` end what counts of an answer."""

    kind: Kind = "mdm"

    def __init__(
        self,
        name: str,
        folder: Path,
        engine_options: Mapping[str, Any],
        params_options: Mapping[str, Any],
        *,
        stop_ids: Sequence[int] = (),
        engines: Engines | None = None,
    ) -> None:
        self.name, self.params_options, self.stop_ids = name, dict(params_options), tuple(stop_ids)
        self.engine, self.is_shared, self.close = (engines or Engines()).take(folder, engine_options)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        began = time.perf_counter()
        outputs = self.engine.generate(
            [{"prompt_token_ids": list(question.prompt)} for question in questions],
            [params_for(self.params_options, question.max_new_tokens) for question in questions],
        )
        # Its own clock begins inside the call.
        late = time.perf_counter() - began - max(output.metrics.total_s for output in outputs)
        return [self._answer(output, max(late, 0.0)) for output in outputs]

    def _answer(self, output: RequestOutput, late: float) -> Answer:
        completion, first = output.outputs[0], output.metrics.first_text_s
        stats = completion.diffusion
        return Answer(
            cut(completion.token_ids, self.stop_ids),
            total_s=output.metrics.total_s + late,
            first_token_s=None if first is None else first + late,
            num_forwards=stats.nfe,
            num_computed=stats.num_query_rows,
            num_written=round(stats.tokens_per_forward * stats.nfe),
        )
