"""The report in a real Chromium: it draws, filters and compares, and hostile text stays text."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import r1kit
from fake_run import HOSTILE, write_fake_run, write_gz, write_signs
from r1kit.report import build_comparison, build_report
from r1kit.report.watch import make_server
from r1kit.token_values import pack

TOKENIZER = Path(r1kit.__file__).parent / "mini" / "base" / "tokenizer.json"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGS += ["--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(write_fake_run(tmp_path_factory.mktemp("runs") / "mini", steps=60, hostile=True))


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce")
        chromium.close()


@pytest.fixture
def said(tab: Any) -> Iterator[list[str]]:
    """What the tab does that a report must not: console messages, errors, dialogs, and every request."""
    heard: list[str] = []
    listeners = {
        "console": lambda message: heard.append(message.text),
        "pageerror": lambda error: heard.append(str(error)),
        "request": lambda request: None if request.url.startswith("data:") else heard.append(request.url),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    yield heard
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)


def until(page: Any, expression: str, why: str) -> None:
    """The page's policy forbids ``eval``, which is how Playwright's own ``wait_for_function`` looks again."""
    deadline = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def open_page(tab: Any, address: str) -> None:
    tab.goto(address)
    until(tab, "document.documentElement.dataset.ready === 'true'", "the page never became ready")


@pytest.fixture
def page(tab: Any, said: list[str], report: Path) -> Iterator[Any]:
    """A freshly opened report. Whatever a test does, the console stays silent and nothing is requested."""
    open_page(tab, report.as_uri())
    yield tab
    assert said == [report.as_uri()]
    assert tab.evaluate("window.pwned") is None


def test_it_draws_every_curve_where_the_numbers_say(page: Any) -> None:
    assert "Held-out accuracy rose from 35.0" in page.inner_text("h1")
    assert page.locator(".warnings").is_visible()
    assert page.locator("#charts figure").count() == 15
    for path in page.locator("figure path.line").all():
        assert re.match(r"M[\d.]+ -?[\d.]+(L[\d.]+ -?[\d.]+)+$", path.get_attribute("d"))
    heldout = page.locator("#hero path.line.t-heldout").get_attribute("d")
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", heldout)]
    zero, full = (page.locator("#hero line.gridline").nth(i).get_attribute("y1") for i in (0, 5))
    accuracy = [(float(zero) - y) / (float(zero) - float(full)) for y in ys]
    assert len(accuracy) == 7
    assert accuracy[0] == pytest.approx(0.35, abs=0.002)
    assert accuracy[-1] == pytest.approx(0.839, abs=0.002)


def test_hover_and_arrow_keys_read_values_in_all_charts(page: Any) -> None:
    chart = page.locator("#hero svg").first
    chart.hover(position={"x": 60, "y": 100})
    assert page.locator("#hero .at").inner_text().startswith("step ")
    assert page.locator("line.cross").count() == 16
    page.mouse.move(5, 5)
    assert page.locator("line.cross").count() == 0
    chart.focus()
    for key in ("End", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator("#hero .at").inner_text().startswith("step 58 ·")
    assert "Accuracy, step 58" in page.inner_text("#spoken")
    page.keyboard.press("Home")
    assert "held-out 35.0" in page.locator("#hero .values").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("line.cross").count() == 0


def test_steps_or_time_and_smooth_or_raw(page: Any) -> None:
    line = page.locator("#charts path.line").first
    by_step = line.get_attribute("d")
    assert page.locator("path.raw").count() > 5
    page.click("#by-time")
    assert page.locator("#by-time").get_attribute("aria-pressed") == "true"
    assert line.get_attribute("d") != by_step
    assert "min" in page.locator("#hero svg").first.inner_html()
    page.click("#by-step")
    assert line.get_attribute("d") == by_step
    page.uncheck("#smooth")
    assert page.locator("path.raw").count() == 0


def test_one_problem_is_followed_through_training(page: Any) -> None:
    assert page.locator("#problems").is_visible()
    pair = page.locator("#problem-detail .pair article")
    assert [pair.nth(i).locator(".verdict").inner_text().split(",")[0] for i in (0, 1)] == ["Wrong", "Right"]
    assert page.locator(".strip circle.pick").count() == 7
    assert page.locator(".strip circle.pick.t-wrong").count() >= 1
    first = page.locator("#problem-detail .prompt").inner_text()
    page.focus("#problem-list")
    page.keyboard.press("ArrowDown")
    assert page.locator("#problem-detail .prompt").inner_text() != first
    page.locator("#problem-detail select").nth(1).select_option("3")
    assert "step 30" in pair.nth(1).inner_text()
    assert "step 0 " in pair.nth(0).inner_text()
    page.locator(".strip circle.pick").nth(4).click()
    assert "step 40" in pair.nth(1).inner_text()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "problem-query"
    page.select_option("#problem-what", "")
    page.fill("#problem-query", "countdown3-17")
    settled(page, "#problem-count", "1 problem ")
    assert "countdown3-17" in page.inner_text("#problem-detail")
    page.fill("#problem-query", "no such problem")
    settled(page, "#problem-count", "0 problems ")


def test_a_group_that_was_asked_several_times_shows_its_share_right(tab: Any, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for step, right in ((0, 1), (5, 3)):
        rows = [
            {"set": "train", "step": step, "problem_id": "p", "sample": i, "completion": str(i), "group": 0,
             "prompt": "A conversation between User and Assistant. User: What is User: here?. Assistant: <think>\n",
             "token_ids": [1] * 10, "rewards": {"accuracy": float(i < right)}} for i in range(4)
        ]  # fmt: skip
        write_gz(tmp_path / "rollouts" / f"{step:06d}.jsonl.gz", rows)
    open_page(tab, build_report(tmp_path).as_uri())
    assert tab.inner_text("#problem-detail .prompt") == "What is User: here?."
    titles = tab.locator(".strip circle.t-heldout title").all_text_contents()
    assert [text.replace("\u00a0", " ") for text in titles] == ["step 0: 25.0 % of 4", "step 5: 75.0 % of 4"]
    assert tab.locator(".strip circle.pick").count() == 8
    tab.click("text=Open in the browser of completions >> nth=1")
    assert tab.locator("#detail .path button").count() == 4
    tab.click("text=Follow this problem")
    assert tab.locator("#problems").is_visible()


def count(page: Any) -> int:
    return int(page.inner_text("#count").split()[0].replace(",", ""))


def settled(page: Any, place: str, start: str) -> None:
    """Typing filters after a short pause."""
    until(page, f"document.querySelector('{place}').textContent.startsWith('{start}')", page.inner_text(place))


def chosen(page: Any, box: str, value: str) -> int:
    page.select_option(box, value)
    page.wait_for_timeout(130)
    return count(page)


def test_filters_narrow_and_agree_with_what_is_listed(page: Any) -> None:
    page.click("#view-browse")
    everything = count(page)
    assert everything == 7 * 110 + 60 * 32
    chosen(page, "#set", "=countdown3")
    page.click(".more-filters summary")
    page.fill("#step-from", "60")
    page.fill("#step-to", "60")
    settled(page, "#count", "80 completions")
    right = chosen(page, "#verdict", "right")
    assert page.locator("#list .item").count() < 40
    assert page.get_attribute("#list-0", "aria-setsize") == str(right)
    assert right + chosen(page, "#verdict", "wrong") == 80
    page.fill("#step-from", "")
    page.fill("#step-to", "")
    assert 0 < chosen(page, "#verdict", "cut") < 200
    assert "Wrong, cut off at the length limit" in page.inner_text("#detail")
    page.click("#clear")
    assert count(page) == everything
    page.fill("#len-from", "384")
    page.fill("#len-to", "384")
    page.wait_for_timeout(130)
    assert count(page) == chosen(page, "#verdict", "cut")
    page.click("#clear")
    page.fill("#term-from", "1")
    assert chosen(page, "#term", "=accuracy") == chosen(page, "#verdict", "right")
    page.click("#clear")
    page.fill("#query", "window.pwned")
    settled(page, "#count", "7 completions")
    page.fill("#query", "no such text anywhere")
    settled(page, "#count", "0 completions")
    assert "Nothing matches" in page.inner_text("#list")


def test_the_list_takes_the_keyboard(page: Any) -> None:
    page.click("#view-browse")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    everything = count(page)
    page.focus("#list")
    first = page.inner_text("#detail")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#detail") != first
    assert page.locator("#list [aria-selected='true']").get_attribute("id") == "list-1"
    page.keyboard.press("End")
    assert page.locator("#list [aria-selected='true']").get_attribute("aria-posinset") == str(everything)
    assert page.get_attribute("#list", "aria-activedescendant") == f"list-{everything - 1}"
    page.keyboard.press("Home")
    assert page.inner_text("#detail") == first
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_signs_lead_to_their_examples(tab: Any, said: list[str], tmp_path: Path) -> None:
    run = write_signs(tmp_path)
    open_page(tab, build_report(run).as_uri())
    assert "12 is wrong" in tab.locator(".quote").first.inner_text()
    card = tab.locator(".suspect", has_text="Repetition")
    assert "Rule:" in card.inner_text()
    card.locator("button").first.click()
    assert tab.locator("#browse").is_visible()
    assert count(tab) == 1
    assert "again and again" in tab.inner_text("#detail")
    tab.locator(".quote").first.get_by_text("All of this kind").click()
    assert "12 is wrong" in tab.inner_text("#detail")
    tab.locator(".quote").first.get_by_text("Follow this problem").click()
    assert "12 is wrong" in tab.inner_text("#problem-detail")


def test_tokens_are_coloured_by_what_the_sampler_thought(tab: Any, said: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    (tmp_path / "run.json").write_text("{}")
    text = "<think>\n<b>1+2=3</b> yes 等 😀\n</think>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    logprobs = [-4.0 if i == 3 else -0.01 for i in range(len(ids))]
    row = {"set": "train", "problem_id": "p", "completion": text, "token_ids": ids, "logprobs": logprobs}
    write_gz(tmp_path / "rollouts" / "000000.jsonl.gz", [row | {"advantage": -1.5, "rewards": {"accuracy": 0.0}}])
    open_page(tab, build_report(tmp_path).as_uri())
    tab.click("#view-browse")
    assert tab.locator(".tokens").count() == 0
    tab.select_option(".colour select", "surprise")
    assert tab.locator(".tokens").evaluate("node => node.textContent") == text
    assert tab.locator(".tokens .k8").count() == 1
    assert "surprise 4.00 nats" in tab.get_attribute(".tokens .k8", "title")
    tab.select_option(".colour select", "push")
    strongest = tab.locator(".tokens .k-bad.k7")  # sqrt(1.5 * (1 - e^-4) / 2) = 0.859 -> 7 of 8
    assert strongest.count() == 1
    assert "push -1.47" in strongest.get_attribute("title")
    assert tab.locator(".tokens b").count() == 0


def test_tokens_are_coloured_by_what_the_trainer_found(tab: Any, said: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    (tmp_path / "config.json").write_text('{"model": "mini-base"}')
    (tmp_path / "run.json").write_text("{}")
    texts = ["<think>\n1+2=3 yes\n</think>", "<think>\n1+2=4 no\n</think>"]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    rows = [
        {"set": "train", "problem_id": "p", "completion": text, "token_ids": tokens, "logprobs": [-0.1] * len(tokens),
         "group": 0, "sample": i, "advantage": 1.0, "rewards": {"accuracy": 1.0 - i}}
        for i, (text, tokens) in enumerate(zip(texts, ids, strict=True))
    ]  # fmt: skip
    write_gz(tmp_path / "rollouts" / "000000.jsonl.gz", rows)
    entropy, ratio = np.zeros(len(ids[0]), np.float32), np.zeros(len(ids[0]), np.float32)
    entropy[2], ratio[3], entropy[4] = 2.0, -0.2, np.nan
    write_gz(tmp_path / "token_values" / "000000.jsonl.gz", [{"group": 0, "member": 0, **pack(entropy, ratio)}])
    open_page(tab, build_report(tmp_path).as_uri())
    tab.click("#view-browse")
    tab.select_option(".colour select", "entropy")
    assert tab.locator(".tokens").evaluate("node => node.textContent") == texts[0]
    assert "entropy 2.03 nats, ratio 1.000" in tab.get_attribute(".tokens .k8", "title")  # (57 / 40) squared
    tab.select_option(".colour select", "ratio")
    strongest = tab.locator(".tokens .k-bad.k8")
    assert "ratio 0.818" in strongest.get_attribute("title")
    tab.focus("#list")
    tab.keyboard.press("ArrowDown")
    assert "trainer computed none" in tab.inner_text("#detail")
    assert tab.locator(".colour option").evaluate_all("all => all.map((o) => o.value)") == [
        "text", "surprise", "push", "advantage",
    ]  # fmt: skip
    assert "1+2=4 no" in tab.inner_text("#detail")


def test_hostile_text_is_shown_as_text(page: Any) -> None:
    page.click("#view-browse")
    page.fill("#query", "onerror")
    settled(page, "#count", "7 completions")
    shown = page.locator("#detail").evaluate("node => node.textContent")
    for part in ("</script><script>window.pwned=1</script>", "<img src=x onerror=", "<svg onload=", "&lt;b&gt;"):
        assert part in shown
        assert part in HOSTILE
    page.click("text=Follow this problem")
    assert "</script><script>window.pwned=1</script>" in page.locator("#problem-detail").evaluate("n => n.textContent")
    assert "onerror" in page.locator("#problem-list").evaluate("node => node.textContent")
    places = "#detail, #problem-detail, #list, #problem-list, #aha, #suspects"
    assert page.locator(places).locator("img, script, b b, svg [onload]").count() == 0
    assert page.locator("[onload], [onerror]").count() == 0
    assert page.locator("script").count() == 4


def test_the_policy_stops_what_the_escaping_would_let_through(tab: Any, report: Path) -> None:
    failed: list[tuple[str, str]] = []
    tab.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    arrived: list[str] = []
    tab.on("requestfinished", lambda request: arrived.append(request.url))
    open_page(tab, report.as_uri())
    trial = """() => {
        const results = [];
        try { document.body.innerHTML = "<b>x</b>"; results.push("innerHTML"); } catch {}
        const script = document.createElement("script");
        try { script.textContent = "window.pwned = 1"; document.body.append(script); } catch {}
        const image = new Image(); image.src = "https://example.invalid/x.png";
        try { document.body.setAttribute("onclick", "window.pwned = 2"); document.body.click(); } catch {}
        return fetch("https://example.invalid/").then(() => results.concat("fetch"), () => results);
    }"""
    assert tab.evaluate(trial) == []
    assert tab.evaluate("window.pwned") is None
    assert arrived == [report.as_uri()]
    assert {why for _, why in failed} == {"csp"}


def test_nothing_sticks_out_at_any_width(page: Any) -> None:
    outside = """width => [...document.querySelectorAll("figure text")].filter(node => {
        const box = node.getBoundingClientRect(); return box.left < 0 || box.right > width;
    }).map(node => node.textContent)"""
    for width in (390, 768, 1440, 1280):
        page.click("#view-browse" if width == 768 else "#view-problems")
        page.set_viewport_size({"width": width, "height": 900})
        drawn = "Math.abs(document.querySelector('#hero svg').viewBox.baseVal.width - innerWidth) < 400"
        until(page, drawn, "the page was not drawn again for its new width")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(outside, width) == []


def contrast(page: Any, selector: str) -> float:
    """WCAG 2.2 contrast ratio of an element's text against the page's background."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = page.evaluate("s => getComputedStyle(document.querySelector(s)).color", selector)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_light_and_dark_are_both_legible_and_can_be_switched(page: Any) -> None:
    papers = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for selector in ("h1", ".notes", ".t-heldout", ".t-train", ".t-wrong", ".t-right", ".t-violet"):
            assert contrast(page, selector) >= (4.5 if selector in ("h1", ".notes") else 3.0), (scheme, selector)
    assert papers[0] != papers[1]
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == papers[0]
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == papers[1]


def test_a_report_of_almost_nothing_opens_in_silence(tab: Any, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "running"}')
    address = build_report(tmp_path).as_uri()
    open_page(tab, address)
    assert "No step has been recorded yet." in tab.inner_text("h1")
    assert tab.locator("#no-curves").is_visible()
    assert not tab.locator("#browse").is_visible()
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/accuracy": 0.3}\n{"step": 1, "reward": 0.5}\n')
    build_report(tmp_path)
    open_page(tab, address)
    assert tab.locator("#hero svg").first.is_visible()
    assert tab.locator("#by-time").is_disabled()
    assert said == [address, address]


def test_runs_are_laid_over_each_other(tab: Any, said: list[str], tmp_path: Path) -> None:
    runs = [write_fake_run(tmp_path / str(i), steps=30 + 10 * i, seed=i, final=0.7 + 0.1 * i) for i in range(2)]
    address = build_comparison(runs, tmp_path / "compare.html").as_uri()
    open_page(tab, address)
    assert tab.locator("#hero path.line").count() == 2
    tab.locator("#hero svg").first.hover(position={"x": 300, "y": 100})
    assert tab.locator("line.cross").count() > 10
    by_step = tab.locator("#hero path.line").nth(1).get_attribute("d")
    tab.click("#by-time")
    assert "NaN" not in tab.locator("#hero").inner_html()
    assert tab.locator("#hero path.line").nth(1).get_attribute("d") != by_step
    for width in (390, 1280):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == [address]


def test_a_watched_page_follows_its_run(tab: Any, said: list[str], tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", steps=30, warnings=False)
    (run / "run.json").write_text('{"status": "running"}')
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(metrics[:21]))
    server = make_server(run)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        open_page(tab, server.address)
        until(tab, "document.querySelector('#watch-note').textContent.startsWith('Live')", "it never looked")
        before = tab.inner_text("#facts")
        (run / "metrics.jsonl").write_text("".join(metrics))
        until(tab, "document.querySelector('#facts').textContent !== " + json.dumps(before), "the facts stood still")
        until(tab, "document.querySelector('#facts').textContent.includes('Steps30')", "the last step did not come")
        assert tab.locator("#watch-reload").is_visible()
        (run / "run.json").write_text('{"status": "finished"}')
        until(tab, "document.querySelector('#watch-note').textContent.includes('over')", "the end was not noticed")
        assert tab.inner_text("#status") == "finished"
        assert all(address.startswith(server.address) for address in said)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
