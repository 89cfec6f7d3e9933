"""What the server says of itself, and random requests made of it: never a fault of ours, every refusal in form."""

import json
import os
import warnings

import hypothesis
import pytest

from llada_rt.params import ALIASES, SamplingParams
from llada_rt.server.errors import STATUSES
from llada_rt.server.protocol import option_schemas

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = int(os.environ.get("LLADA_FUZZ_EXAMPLES", "25"))  # of each path, fitting and not


@pytest.fixture(scope="session")
def description(shared_server):
    import httpx

    return httpx.get(f"{shared_server.url}/openapi.json").json()


@pytest.fixture(scope="session")
def api(shared_server, description):
    # The engine answers what fits at its own cost: short answers, few samples.
    small = json.loads(json.dumps(description))
    for model in small["components"]["schemas"].values():
        for name, most in (("gen_length", 16), ("n", 3), ("mc_num", 16), ("max_output_tokens", 16)):
            for word in (name, *(alias for alias, own in ALIASES.items() if own == name)):
                schema = model.get("properties", {}).get(word)
                for part in [schema, *(schema or {}).get("anyOf", [])] if schema else []:
                    if part.get("type") == "integer":
                        part["maximum"] = most
    return schemathesis.openapi.from_dict(small)


PATHS = [
    *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/infill", "/v1/edit", "/v1/score"),
    *("/tokenize", "/detokenize", "/apply_template", "/v1/models/{name}"),
]


@pytest.mark.parametrize("mode", schemathesis.GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", PATHS)
def test_random_requests(api, server, path, mode):
    if path.endswith("{name}") and mode is schemathesis.GenerationMode.NEGATIVE:
        return  # any text is a name
    operation = api[path]["GET" if path.endswith("{name}") else "POST"]

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = case.call(base_url=server.url, timeout=30)
        check_answer(case, answer)

    check()


def check_answer(case, answer):
    assert answer.status_code == 200 or answer.status_code in STATUSES, answer.status_code
    assert answer.status_code < 500, answer.content
    if answer.status_code != 200:
        told = json.loads(answer.content)
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert all(isinstance(told["error"][name], str) for name in ("message", "type", "code"))
    elif b"data: " not in answer.content[:200]:
        case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])


def test_every_path_is_described(description):
    expected = {
        *("/health", "/ready", "/health/progress", "/version", "/metrics", "/v1/models", "/v1/models/{name}"),
        *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/infill", "/v1/edit", "/v1/score"),
        *("/tokenize", "/detokenize", "/apply_template"),
    }
    assert set(description["paths"]) == expected
    for path in description["paths"].values():
        for operation in path.values():
            assert {str(status) for status in STATUSES} <= set(operation["responses"])


@pytest.mark.parametrize(
    "name", ["ChatRequest", "CompletionRequest", "InfillRequest", "EditRequest", "ResponsesRequest"]
)
def test_the_options_are_in_the_description_by_their_names(description, name):
    properties = description["components"]["schemas"][name]["properties"]
    words = {*SamplingParams().to_dict(), *ALIASES}
    assert words <= set(properties)
    assert properties["steps"]["description"] == option_schemas()["steps"]["description"]
    assert properties["gen_length"]["minimum"] == 1
