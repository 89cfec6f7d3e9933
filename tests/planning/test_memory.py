"""The memory plan: what is left for K/V, and what is too little."""

import resource

import pytest

from llada_rt.errors import ConfigError, OutOfMemoryError
from llada_rt.runtime.memory import MemoryPlan, check_weights, machine_bytes

NEEDS = {"total_bytes": 10**6, "weight_bytes": 1000, "workspace_bytes": 200, "least_kv_bytes": 50, "most_kv_bytes": 400}


@pytest.mark.parametrize(("limit", "kv_bytes"), [(1250, 50), (1251, 51), (1600, 400), (10**9, 400)])
def test_what_the_limit_leaves_is_for_kv(limit, kv_bytes):
    plan = MemoryPlan.of(limit, **NEEDS)
    assert (plan.limit_bytes, plan.kv_bytes) == (limit, kv_bytes)
    assert plan.weight_bytes + plan.workspace_bytes + plan.kv_bytes <= limit


def test_too_little_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match=r"at least 1250 bytes \(1000 of weights, 200 to work in, 50 of .* got 1249"):
        MemoryPlan.of(1249, **NEEDS)


def test_without_a_limit_the_machine_is_one():
    assert MemoryPlan.of(None, **NEEDS | {"total_bytes": 1500}).kv_bytes == 150
    assert MemoryPlan.of(None, **NEEDS | {"total_bytes": 10}).kv_bytes == 50  # at least one request can run


def test_what_the_process_has_already_counts_by_default():
    """Nine tenths of a small container leave less than Python itself takes."""
    needs = NEEDS | {"total_bytes": 400 << 20, "most_kv_bytes": 1 << 40}
    assert MemoryPlan.of(None, **needs).limit_bytes == int(0.9 * (400 << 20))
    assert MemoryPlan.of(None, **needs, process_bytes=60 << 20).limit_bytes == (400 - 60 - 32) << 20
    assert MemoryPlan.of(None, **needs, process_bytes=1 << 20).limit_bytes == int(0.9 * (400 << 20))


def test_weights_that_no_memory_holds():
    check_weights(1)
    with pytest.raises(OutOfMemoryError, match=rf"take {1 << 60} bytes"):
        check_weights(1 << 60)


def test_a_limited_address_space_counts(monkeypatch):
    everything = machine_bytes()
    assert everything > 2**20
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, 2**20))
    assert machine_bytes() == 2**19
