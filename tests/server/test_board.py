"""The Grafana board: every series that a query names is one of a live server's, with the labels the query uses."""

import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.running import running

BOARD = json.loads((Path(__file__).resolve().parents[2] / "deploy" / "grafana.json").read_text(encoding="utf-8"))
QUERIES = [(panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def series(folder):
    """Labels of each series, after requests of every kind."""
    with running(folder) as server:
        url = f"{server.url}/v1/completions"
        for body in ({"audit": 1, "cache": "dual"}, {"stream": True}, {"max_tokens": 0}):
            httpx.post(url, json={"prompt": "a"} | body)
        families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
        return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=lambda value: value[:40])
def test_a_query_names_what_there_is(series, title, query):
    names = re.findall(r"llada_rt_\w+", query)
    assert names
    for name in names:
        assert name in series, name
        assert "model_name" in series[name]
    for labels in re.findall(r"by \(([^)]*)\)", query):
        for label in labels.split(","):
            assert all(label.strip() in series[name] for name in names), label


def test_the_board_shows_most_of_what_there_is(series):
    shown = " ".join(query for _, query in QUERIES)
    hidden = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in series if name.startswith("llada_rt_")}
    left = {name for name in hidden if name not in shown}
    assert left <= {
        *("llada_rt_build_info", "llada_rt_ignored_fields_total", "llada_rt_engine_calls_total"),
        *("llada_rt_engine_requests_failed_total", "llada_rt_engine_requests_dropped_total"),
        *(name for name in hidden if name.removesuffix("_total") + "_total" in shown),
        "llada_rt_ignored_fields",
    }


def test_panels_have_places_of_their_own():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in BOARD["panels"]})
