"""The page in a real browser: type, watch, scrub, make a hole, race two policies, lose the connection."""

import json
import re
import shutil
import time
from collections import Counter
from typing import get_args

import httpx
import pytest

from llada_rt import SamplingParams
from llada_rt.options.types import BlockOrder, Cache, Preset
from tests.engine.conftest import held
from tests.server.running import check_quiet, running

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this system")
expect = playwright.expect
HOLE = "▢"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser, server):
    """The page, whose scripts may not fail and which asks nobody but its server."""
    made = browser.new_page(viewport={"width": 1000, "height": 800})
    faults, asked = [], []
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    made.on("request", lambda request: asked.append(request.url))
    made.goto(server.url)
    made.faults = faults
    yield made
    assert made.faults == []
    assert {
        url.split("/page/")[0].split("/v1/")[0].removesuffix("/tokenize").rstrip("/")
        for url in asked
        if not url.startswith("data:")
    } == {server.url}
    made.close()


def cells(page, lane=0):
    return page.locator(".lane").nth(lane).locator(".cell").all_inner_texts()


def states(page, lane=0):
    """How many cells there are of each kind."""
    classes = page.locator(".lane").nth(lane).locator(".cell").evaluate_all("all => all.map(one => one.className)")
    kinds = [next(word for word in name.split() if word not in ("cell", "fresh")) for name in classes]
    return Counter("written" if kind[0] == "c" and kind[1:].isdigit() else kind for kind in kinds)


def run_to_the_end(page, said="Done."):
    page.click("#run")
    expect(page.locator("#status")).to_have_text(said, timeout=20_000)


@needs_browser
def test_type_and_watch(server, page):
    expect(page.locator("#model")).to_contain_text("tiny: ")
    page.fill("#prompt", "床前明月")
    run_to_the_end(page)
    params = SamplingParams(preset="reference", gen_length=12, seed=1)
    (output,) = server.engine.chat([{"role": "user", "content": "床前明月"}], params).outputs
    assert page.inner_text(".text") == output.text.replace("\n", "\n")
    assert len(cells(page)) == 12
    assert states(page)["mask"] == 0
    assert f"{output.diffusion.nfe} forwards" in page.inner_text(".facts")


@needs_browser
def test_the_canvas_fills_while_it_runs(server, page):
    with held(server.engine) as release:
        page.click("#run")
        for _ in range(3):
            release()
        expect(page.locator(".place")).to_have_text("3 of 3")
        assert states(page)["mask"] == 9
        assert page.is_disabled("#run")
        for _ in range(30):
            release()
        expect(page.locator("#status")).to_have_text("Done.")
    assert page.is_enabled("#run")


@needs_browser
def test_scrub(page):
    run_to_the_end(page)
    whole = cells(page)
    scrub = page.locator(".scrub")
    for step in (0, 5, 11):
        scrub.fill(str(step))
        assert states(page)["mask"] == 12 - step
        expect(page.locator(".place")).to_have_text(f"{step} of 12")
        assert page.locator(".cell.fresh").count() == (step > 0)
    scrub.focus()
    page.keyboard.press("End")
    assert cells(page) == whole


@needs_browser
def test_make_a_hole_by_keys_and_fill_it(server, page):
    page.check("[value=holes]")
    page.fill("#prompt", "床前明月光")
    page.locator("#prompt").evaluate("field => { field.focus(); field.setSelectionRange(1, 3); }")
    page.keyboard.press("Alt+KeyH")
    expect(page.locator("#prompt")).to_have_value(f"床{HOLE * 2}月光")
    expect(page.locator("#status")).to_have_text("A hole of 2 tokens.")
    run_to_the_end(page)
    params = SamplingParams(preset="reference", seed=1)
    (output,) = server.engine.infill(["床", 2, "月光"], params).outputs
    assert page.inner_text(".text") == output.text
    assert states(page)["given"] == 3
    assert cells(page)[0] == "床"
    page.locator("#prompt").evaluate("field => field.setSelectionRange(0, 0)")
    page.click("#make-hole")
    expect(page.locator("#status")).to_contain_text("Select the text")


@needs_browser
def test_two_policies_race(server, page):
    page.check("[value=text]")
    page.fill("#prompt", "床前")
    page.check("#race")
    page.fill('.policy[data-name="b"] [name=threshold]', "0.01")
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("was first", timeout=20_000)
    assert page.locator(".lane").count() == 2
    assert page.locator(".lane.first").count() == 1
    facts = page.locator(".facts").all_inner_texts()
    expected = [
        server.engine.generate("床前", SamplingParams(gen_length=12, seed=1, **options))[0].outputs[0]
        for options in ({"preset": "reference"}, {"preset": "fast", "threshold": 0.01})
    ]
    for text, output in zip(facts, expected, strict=True):
        assert text.startswith(f"{output.diffusion.nfe} forwards")
    assert page.locator(".text").all_inner_texts() == [output.text for output in expected]
    assert expected[1].diffusion.nfe < expected[0].diffusion.nfe


@needs_browser
def test_a_connection_that_is_lost_leaves_its_steps(server, page):
    with held(server.engine) as release:
        page.click("#run")
        for _ in range(4):
            release()
        expect(page.locator(".place")).to_have_text("4 of 4")
        for connection in list(server.server.server_state.connections):
            connection.loop.call_soon_threadsafe(connection.transport.abort)
        expect(page.locator("#status")).to_contain_text("The connection was lost")
        page.locator(".scrub").fill("2")
        assert states(page)["mask"] == 10
        release()
    page.faults[:] = [fault for fault in page.faults if "ERR_" not in fault]


@needs_browser
def test_stop_ends_the_request(server, page):
    dropped = server.engine.stats().num_dropped
    with held(server.engine) as release:
        page.click("#run")
        release()
        expect(page.locator(".place")).to_have_text("1 of 1")
        page.click("#stop")
        expect(page.locator("#status")).to_contain_text("Stopped.")
        while server.service.num_open:
            time.sleep(0.005)
        release()
        check_quiet(server)
    assert server.engine.stats().num_dropped == dropped + 1


@needs_browser
def test_text_of_the_model_is_text(page):
    page.check("[value=holes]")
    page.fill("#prompt", f"<img src=x onerror=alert(1)>{HOLE}")
    run_to_the_end(page)
    assert page.inner_text(".text").startswith("<img src=x")
    assert page.locator("main img").count() == 0


@needs_browser
def test_what_the_server_refuses_is_told(page):
    page.fill("#length", "1000")
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("more than the 128 of the model's context")
    expect(page.locator("#status")).to_have_class("bad")
    page.faults[:] = [fault for fault in page.faults if "400" not in fault]  # the browser's own line


@needs_browser
def test_save(page, tmp_path):
    run_to_the_end(page)
    with page.expect_download() as saved:
        page.click(".json")
    saved.value.save_as(tmp_path / "a.json")
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert len(told["canvas"]) == 12
    assert sum(len(step["committed"]) for step in told["steps"]) == 12
    with page.expect_download() as saved:
        page.click(".svg")
    saved.value.save_as(tmp_path / "a.svg")
    picture = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert picture.count("<rect ") == 12
    assert "rgb(" in picture


@needs_browser
def test_with_a_key(browser, folder):
    with running(folder, api_key=("a-key-of-the-house",)) as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.locator("#status")).to_have_text("The server wants an API key.")
        page.fill("#key", "a-key-of-the-house")
        run_to_the_end(page)
        page.close()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_on_a_phone_and_in_the_dark(browser, server, scheme, width):
    """Nothing leaves the screen; every field has a name; text can be told from its ground."""
    page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    page.goto(server.url)
    page.check("#race")
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("was first", timeout=20_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for field in page.locator("input, select, textarea, button").all():
        if field.is_visible():
            name = field.evaluate("one => one.labels?.[0]?.textContent || one.textContent || one.ariaLabel")
            assert name.strip()
    for selector in ("body", ".help", ".facts", "#run", ".cell.c9", ".legend .c0", ".legend .mask", ".legend .end"):
        assert contrast(page, selector) >= 4.5, selector
    page.close()


@needs_browser
def test_axe_finds_nothing_serious(browser, server):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page()
    page.goto(server.url)
    page.check("[value=holes]")
    page.check("#race")
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("was first", timeout=20_000)
    found = axe.run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []
    page.close()


def contrast(page, selector):
    """The contrast of an element's text with what lies behind the text (WCAG)."""
    colours = page.locator(selector).first.evaluate(
        """one => {
            const ink = getComputedStyle(one).color;
            let behind = one;
            while (behind && /, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
            return [ink, getComputedStyle(behind ?? document.body).backgroundColor];
        }"""
    )

    def light(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted(map(light, colours), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_page_runs_no_script_but_its_own(ask):
    for path in ("/", "/page/page.js", "/page/page.css"):
        policy = ask.get(path).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
    text = ask.get("/").text
    assert "<script>" not in text
    assert " onclick" not in text
    assert "style=" not in text
    assert "//" not in text.replace("<!doctype html>", "")


@pytest.mark.parametrize(("name", "type_of"), [("preset", Preset), ("cache", Cache), ("block_order", BlockOrder)])
def test_the_page_offers_every_policy(ask, name, type_of):
    select = re.search(rf'<select name="{name}">(.*?)</select>', ask.get("/").text, re.DOTALL).group(1)
    assert re.findall("<option>(.*?)</option>", select) == list(get_args(type_of))


def test_nothing_beside_the_pages_files_is_served(ask):
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/page/app.py", "/page//etc/passwd"):
        host = str(ask.base_url).removeprefix("http://").rstrip("/")
        assert httpx.get(f"http://{host}{path}").status_code == 404
