"""The dashboard in a real browser, over a real broadcaster with a learner and actors."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

import clients
from broadcaster.web.tokens import add_token
from tests.broadcaster_process import BroadcasterProcess
from tests.chromium import Chromium, Page, chromium

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
STATIC = files("broadcaster.web") / "static"
browser_needed = pytest.mark.skipif(chromium() is None, reason="there is no chromium here: apt-get install chromium")


# --- without a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("dashboard") / "broadcaster", http=True) as process:
        yield process


def test_the_page_and_all_that_it_names_are_served_and_may_run_nothing_else(served: BroadcasterProcess) -> None:
    with httpx.Client(base_url=served.ready["http"]) as web:
        page = web.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert web.get("/models/policy").text == page.text
        named = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text))
        scripts = {f"/static/{file.name}" for file in STATIC.iterdir() if file.name.endswith(".js")}
        assert named >= {"/static/main.js", "/static/style.css", "/static/icon.svg"}
        for path in named | scripts:
            found = web.get(path)
            assert found.status_code == 200 and found.headers["x-content-type-options"] == "nosniff"
            for name in re.findall(r'from "\./([^"]+)"', found.text if path.endswith(".js") else ""):
                assert f"/static/{name}" in scripts, f"{path} imports {name}"
        policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["connect-src"] == "'self'" and "unsafe" not in page.headers["content-security-policy"]


def test_no_page_holds_markup_made_of_text_or_script_and_style_inline_or_an_address_elsewhere() -> None:
    for file in STATIC.iterdir():
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function", text), (
            file.name
        )
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, f"{file.name}: {addresses}"
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


# --- in a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def training(served: BroadcasterProcess) -> Iterator[clients.Client]:
    """A learner and two actors: one acts with the newest version, the other one takes none."""
    with clients.connect(served.url, name="actor-quick") as quick, clients.connect(served.url, name=EVIL) as slow:
        follower, sleeper = quick.subscriber("policy"), slow.subscriber("policy")
        with clients.connect(served.url, name="learner") as learner:
            policy = learner.publisher("policy")
            for number in range(1, 7):
                policy.publish(
                    b"weights" * 20_000,
                    archived=number == 3,
                    metrics={"return": number * 10.0, "loss": 1 / number},
                    user_data={"note": EVIL},
                )
                assert follower.wait(newer_than=number - 1, timeout=30).version.number == number
            learner.registry.set_alias("policy", "champion", 3)
            learner.registry.set_tags("policy", {"note": EVIL})
            learner.registry.describe("policy", EVIL)
            learner.publisher("critic").publish(b"weights")
            yield learner
        del sleeper


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    opened = browser.page()
    yield opened
    opened.close()


def require_clean(page: Page, served: BroadcasterProcess) -> None:
    """Nothing was complained of, and nobody else was asked for anything."""
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(served.ready["http"] + "/")] == []


def cell(page: Page, key: str, column: str) -> str:
    """What a table shows in the row that is headed so."""
    return str(
        page.wait_for(
            f"[...document.querySelectorAll('tbody tr')].find((row) => row.querySelector('th').innerText === {json.dumps(key)})"
            f".querySelector('td[data-label={json.dumps(column)}]').innerText"
        )
    )


@browser_needed
def test_an_operator_sees_models_rate_latency_lag_and_room(
    served: BroadcasterProcess, training: clients.Client, page: Page
) -> None:
    page.open(served.ready["http"] + "/")
    page.wait_for("document.getElementById('link').innerText === 'live'")
    newest = training.registry.model("policy").newest
    page.wait_for("document.querySelectorAll('tbody tr').length >= 4")
    assert cell(page, "policy", "Newest") == str(newest) and cell(page, "policy", "Actors") == "2"
    assert cell(page, "critic", "Newest") == "1" and cell(page, "policy", "Aliases") == "champion\u00a0→\u00a03"
    assert cell(page, "actor-quick", "Model") == "policy" and cell(page, "actor-quick", "State") == "keeps up"
    page.until(lambda: cell(page, EVIL, "Lag").endswith(("version", "versions")), "the lag of who takes nothing")
    publisher = training.publisher("policy")

    def all_have_numbers() -> bool:
        publisher.publish(b"weights" * 20_000, metrics={"return": 60.0, "loss": 0.2})
        found = page.value("[...document.querySelectorAll('.tile .value')].map((value) => value.innerText)")
        return len(found) == 5 and all(re.search(r"\d", one) for one in found)

    page.until(all_have_numbers, "a number in each tile")
    shown = page.text()
    for unit in ("versions/s", "ms", "of 1 GiB", "free of"):
        assert unit in shown, unit
    page.wait_for("document.querySelector('.tile .line').getAttribute('d').length > 20")
    require_clean(page, served)


@browser_needed
def test_new_versions_and_models_appear_without_a_reload(
    served: BroadcasterProcess, training: clients.Client, page: Page
) -> None:
    page.open(served.ready["http"] + "/")
    cell(page, "policy", "Newest")
    page.value("window.untouched = true")
    number = training.publisher("policy").publish(b"weights" * 20_000, metrics={"return": 70.0, "loss": 0.1}).number
    page.until(lambda: cell(page, "policy", "Newest") == str(number), "the new version")
    training.publisher("newcomer").publish(b"weights")
    assert cell(page, "newcomer", "Newest") == "1"
    training.registry.delete_model("newcomer")
    page.wait_for("!document.body.innerText.includes('newcomer')")
    assert page.value("window.untouched") is True
    require_clean(page, served)


@browser_needed
def test_a_model_has_a_plot_over_its_versions_and_what_is_written_of_them_is_text(
    served: BroadcasterProcess, training: clients.Client, page: Page
) -> None:
    page.open(served.ready["http"] + "/models/policy")
    page.wait_for("document.querySelectorAll('.plot .dot').length >= 6")
    assert page.value("document.querySelector('h1').innerText") == "policy"
    assert page.value("[...document.querySelectorAll('#metric option')].map((one) => one.value).join()") == "loss,return"
    assert "champion" in page.value("document.querySelector('.plot .chart').textContent")
    before = page.value("document.querySelector('.plot .line').getAttribute('d')")
    page.value(
        "(document.getElementById('metric').value = 'loss', document.getElementById('metric').dispatchEvent(new Event('change')))"
    )
    page.wait_for(f"document.querySelector('.plot .line').getAttribute('d') !== {json.dumps(before)}")
    assert (
        cell(page, "3", "loss") == "0.3333" and cell(page, "3", "Kept") == "archive" and cell(page, "3", "Aliases") == "champion"
    )
    page.value("document.querySelector('.plot .chart').focus()")
    page.press("Home")
    page.wait_for("document.querySelector('.readout').innerText.startsWith('version ')")
    first = page.value("document.querySelector('.readout').innerText")
    page.press("ArrowRight")
    page.wait_for(f"document.querySelector('.readout').innerText !== {json.dumps(first)}")
    link = page.value(
        "[...document.querySelectorAll('tbody tr')].find((row) => row.innerText.startsWith('3')).querySelector('a').href"
    )
    assert httpx.get(link).content == b"weights" * 20_000
    refused = "(() => { try { document.body.innerHTML = '<p>'; } catch (refused) { return refused.name; } })()"
    assert page.value(refused) == "TypeError", "text may not become markup"
    page.complaints.clear()  # That was complained of.
    assert (
        page.value("document.querySelectorAll('main script, main img').length") == 0 and page.value("document.title") != "taken"
    )
    # Of the description, a tag, user data and the name of an actor.
    page.until(lambda: page.value("document.querySelector('main').textContent").count(EVIL) >= 4, "all as text")
    require_clean(page, served)


@browser_needed
def test_a_phone_needs_no_scrolling_sideways_and_the_dark_is_dark(
    served: BroadcasterProcess, training: clients.Client, browser: Chromium
) -> None:
    page = browser.page(width=360, height=740, dark=True, still=True)
    for path, there in (
        ("/", "document.querySelectorAll('tbody tr').length >= 4"),
        ("/models/policy", "document.querySelector('.plot .dot') !== null"),
    ):
        page.open(served.ready["http"] + path)
        page.wait_for(there)
        assert page.value("document.documentElement.scrollWidth") <= 360, path
        red, green, blue = map(
            int, re.findall(r"\d+", page.value("getComputedStyle(document.documentElement).backgroundColor"))[:3]
        )
        assert max(red, green, blue) < 60, path
        assert page.value("document.getAnimations().length") == 0
    require_clean(page, served)
    page.close()


@browser_needed
def test_all_can_be_reached_by_keyboard_and_has_its_name(
    served: BroadcasterProcess, training: clients.Client, page: Page
) -> None:
    page.open(served.ready["http"] + "/")
    cell(page, "policy", "Newest")
    page.press("Tab")
    assert page.value("document.activeElement.className") == "skip"
    for _ in range(20):
        page.press("Tab")
        assert page.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if page.value("document.activeElement.innerText") == "policy":
            break
    page.press("Enter")
    page.wait_for("location.pathname === '/models/policy' && document.activeElement.id === 'content'")
    page.value("history.back()")
    cell(page, "policy", "Newest")
    assert page.value("['header', 'main', 'footer', 'nav', 'h1'].every((one) => document.querySelector(one))")
    assert page.value(
        "[...document.querySelectorAll('table')].every((one) => one.caption.innerText && one.querySelector('th[scope=col]'))"
    )
    assert page.value("[...document.querySelectorAll('svg')].every((one) => one.getAttribute('aria-label'))")
    assert page.value("[...document.querySelectorAll('input, select')].every((one) => one.labels.length)")


@browser_needed
def test_where_nothing_is_yet_it_says_how_to_publish(served: BroadcasterProcess, browser: Chromium, page: Page) -> None:
    page.open(served.ready["http"] + "/?namespace=empty")
    port = served.url.rpartition(":")[2]
    shown = page.wait_for("document.querySelector('.empty code').innerText && document.querySelector('.empty').innerText")
    assert f'connect("tcp://127.0.0.1:{port}", namespace="empty")' in shown and "broadcaster publish" in shown
    with clients.connect(served.url, namespace="empty") as client:
        client.publisher("policy").publish(b"weights")
    assert cell(page, "policy", "Newest") == "1"
    assert page.value("document.querySelector('.empty').hidden") is True


@browser_needed
def test_a_lost_connection_is_said_and_mended_and_nothing_is_missed(tmp_path: Path, page: Page) -> None:
    with BroadcasterProcess(tmp_path, http=True) as process, clients.connect(process.url) as client:
        policy = client.publisher("policy")
        policy.publish(b"weights", metrics={"return": 1.0})
        page.open(process.ready["http"] + "/models/policy")
        cell(page, "1", "return")
        page.wait_for("document.getElementById('link').dataset.state === 'live'")
        os.kill(process.pids[2], signal.SIGKILL)
        page.wait_for("document.getElementById('link').dataset.state === 'lost'")
        for value in (2.0, 3.0):
            policy.publish(b"weights", metrics={"return": value})
        page.wait_for("document.getElementById('link').dataset.state === 'live'")
        assert cell(page, "2", "return") == "2" and cell(page, "3", "return") == "3"
        before = json.loads(process.ready_file.read_text())["pids"][1]
        os.kill(before, signal.SIGKILL)  # The core: another life, whose events begin again.
        page.until(lambda: policy.publish(b"weights", metrics={"return": 4.0}).number > 3, "it serves again")
        newest = policy.publish(b"weights", metrics={"return": 5.0}).number
        assert cell(page, f"{newest:,}".replace(",", "\u202f"), "return") == "5"
        page.wait_for("document.getElementById('link').dataset.state === 'live'")


@browser_needed
def test_a_token_for_some_models_shows_those_and_says_what_it_is_not_told(tmp_path: Path, page: Page) -> None:
    file = tmp_path / "tokens.toml"
    token = add_token(file, "some", "actor", ["default/pol*"])
    with BroadcasterProcess(tmp_path, http=True, options=["--http-tokens", str(file)]) as process:
        with clients.connect(process.url) as client:
            client.publisher("policy").publish(b"weights")
            client.publisher("critic").publish(b"weights")
            page.open(process.ready["http"] + "/?token=" + token)
            assert cell(page, "policy", "Newest") == "1" and "token" not in page.value("location.href")
            page.wait_for("document.body.innerText.includes('Told to tokens that cover all models')")
            assert "critic" not in page.text()
            client.publisher("policy").publish(b"weights")
            page.until(lambda: cell(page, "policy", "Newest") == "2", "the new version")
