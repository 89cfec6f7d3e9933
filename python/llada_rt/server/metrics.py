"""What Prometheus is told. The names are kept as they are: boards and alerts are made of them.

Counts of steps and tokens below are the engine's own, read when they are asked for; what belongs to single requests is
written when they end. Labels hold no text of a client's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..engine import Engine
from ..errors import LladaRtError
from ..outputs import RequestOutput

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PER_FORWARD = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_NATS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10)


class Metrics:
    """One server's, in a registry of its own."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineFacts(engine, model))
        self._model = model
        self.requests = self._counter("requests", "Requests by path and status.", "endpoint", "code")
        self.rejected = self._counter("requests_rejected", "Requests refused, by the code of the error.", "reason")
        self.finished = self._counter("request_finished", "Responses by what ended them.", "reason")
        self.disconnects = self._counter("client_disconnects", "Clients that went away before their answer's end.")
        self.cut = self._counter("slow_clients_cut", "Streams cut because their clients did not read.")
        self.ignored = self._counter("ignored_fields", "Unknown fields that were ignored.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens that texts show.")
        self.padding_tokens = self._counter("padding_tokens", "Decoded positions that texts do not show.")
        self.refreshes = self._counter("cache_refreshes", "Forwards that recomputed a whole canvas, by request.")
        seconds = {
            "time_to_first_commit_seconds": "From the call to the first position that is decoded.",
            "time_to_first_text_seconds": "Of streams, from the call to the first text that is sent.",
            "inter_chunk_latency_seconds": "Of streams, between two pieces of a response.",
            "e2e_request_latency_seconds": "From the call to the end.",
            "request_queue_time_seconds": "From the call to the first slot.",
        }
        self.seconds = {name: self._histogram(name, text, _SECONDS) for name, text in seconds.items()}
        self.tokens_per_forward = self._histogram("tokens_per_forward", "Tokens committed / forwards.", _PER_FORWARD)
        self.nfe = self._histogram("request_nfe", "Forwards of a response.", _TOKENS)
        self.prompt_length = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self.text_length = self._histogram("request_generation_tokens", "Tokens that a text shows.", _TOKENS)
        self.cache_kl = self._histogram("cache_max_kl_nats", "Largest KL of an audited response.", _NATS)

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))

    def tell_output(self, output: RequestOutput) -> None:
        """A request has ended with an answer."""
        self.prompt_tokens.inc(len(output.prompt_token_ids))
        self.prompt_length.observe(len(output.prompt_token_ids))
        times = output.metrics
        self.seconds["e2e_request_latency_seconds"].observe(times.total_s)
        if times.queue_s is not None:
            self.seconds["request_queue_time_seconds"].observe(times.queue_s)
        if times.first_text_s is not None:
            self.seconds["time_to_first_commit_seconds"].observe(times.first_text_s)
        for completion in output.outputs:
            cost = completion.diffusion
            self.finished.labels(self._model, completion.finish_reason).inc()
            self.generation_tokens.inc(cost.emitted_tokens)
            self.padding_tokens.inc(cost.padding_tokens)
            self.refreshes.inc(cost.num_refreshes)
            self.tokens_per_forward.observe(cost.tokens_per_forward)
            self.nfe.observe(cost.nfe)
            self.text_length.observe(cost.emitted_tokens)
            if completion.audit is not None and completion.audit.num_positions:
                self.cache_kl.observe(completion.audit.max_kl)

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        counter = Counter(f"llada_rt_{name}", text, ["model_name", *labels], registry=self.registry)
        return counter if labels else counter.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Any:
        made = Histogram(f"llada_rt_{name}", text, ["model_name"], buckets=tuple(buckets), registry=self.registry)
        return made.labels(self._model)

    def tell_request(self, endpoint: str, status: int) -> None:
        self.requests.labels(self._model, endpoint, str(status)).inc()

    def tell_rejected(self, reason: str) -> None:
        self.rejected.labels(self._model, reason).inc()


class _EngineFacts(Collector):
    """What the engine says when it is asked."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model
        facts = engine.info()
        self._build = {
            "version": __version__,
            "compute_type": str(facts["compute_type"]),
            "isa": str(facts["table"]),
            "device": str(facts["device"]),
        }
        self._weight_bytes = float(facts["weight_bytes"])

    def collect(self) -> Iterator[Metric]:
        stats, engine = self._engine.stats(), self._engine
        try:
            engine.check_health(stuck_after_s=float("inf"))
            up = 1
        except LladaRtError:
            up = 0
        yield self._gauge("engine_up", "1: the engine takes requests.", up)
        yield self._gauge("requests_running", "Samples, and draws of scores, that hold K/V.", stats.num_running)
        yield self._gauge("requests_waiting", "Samples and scores in the queue.", stats.num_waiting)
        yield self._gauge("since_step_seconds", "Without a step although there is work.", stats.since_step_s or 0)
        memory = GaugeMetricFamily("llada_rt_memory_bytes", "Memory by use.", labels=["model_name", "kind"])
        kinds = {"weights": self._weight_bytes, "kv": stats.kv_bytes, "kv_used": stats.kv_used_bytes}
        for kind, value in kinds.items():
            memory.add_metric([self._model, kind], value)
        yield memory
        build = GaugeMetricFamily("llada_rt_build_info", "What runs.", labels=["model_name", *self._build])
        build.add_metric([self._model, *self._build.values()], 1)
        yield build
        counts = {
            "forwards": ("Steps; those that requests share count once.", stats.num_forwards),
            "engine_calls": ("Calls into the compiled loop.", stats.num_calls),
            "query_rows": ("Positions recomputed.", stats.num_query_rows),
            "tokens_committed": ("Tokens committed.", stats.num_committed),
            "engine_busy_seconds": ("Inside the compiled loop.", stats.busy_s),
            "engine_requests_failed": ("Requests that ended with an error.", stats.num_failed),
            "engine_requests_dropped": ("Requests whose caller went away.", stats.num_dropped),
        }
        for name, (text, value) in counts.items():
            counter = CounterMetricFamily(f"llada_rt_{name}", text, labels=["model_name"])
            counter.add_metric([self._model], value)
            yield counter

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(f"llada_rt_{name}", text, labels=["model_name"])
        gauge.add_metric([self._model], value)
        return gauge
