"""The proof stages at small shapes, one after the other: what the sanitizers watch."""

from benchmarks.gpu import stage_attention, stage_model, stage_products
from benchmarks.gpu.flight import Flight


def run(flight: Flight) -> None:
    flight.small = True
    for stage in (stage_products, stage_attention, stage_model):
        with flight.attempt(stage.__name__):
            stage.run(flight)
