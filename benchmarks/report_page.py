"""A report of as many completions as a page takes, in a real Chromium: what each thing that a reader does there costs.

    python benchmarks/report_page.py [--completions 50000]

Of each action: milliseconds until the page shows the result, and the longest stretch that nothing else could run in
(the browser's own "longtask" entries, which begin at 50 ms). Needs the dev extras and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fake_run import completion_row, write_fake_run, write_gz
from r1kit.report import build_report

A_ROLLOUT = 256
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update"]  # fmt: skip
WATCH = """window.longest = 0;
const note = (list) => { for (const task of list.getEntries()) longest = Math.max(longest, task.duration); };
new PerformanceObserver(note).observe({ type: "longtask", buffered: true });"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=50_000)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine")
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", options.completions)
        started = time.perf_counter()
        report = build_report(run)
        print(f"built in {time.perf_counter() - started:.1f} s: {report.stat().st_size / 1e6:.1f} MB")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=ARGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.add_init_script(WATCH)
            look(page, report)
            browser.close()


def make_run(folder: Path, completions: int) -> Path:
    """A run whose rollouts hold so many completions, short enough that a page takes all of them."""
    steps = completions // A_ROLLOUT + 1
    run = write_fake_run(folder, steps=steps)
    for rollout in range(steps):
        random = Random(rollout)
        rows = [
            completion_row(random, step=0, set_name="train", problem=32 * rollout + i // 8, sample=i % 8, p=0.6)
            | {"step": rollout, "rollout": rollout}
            for i in range(A_ROLLOUT)
        ]
        write_gz(run / "rollouts" / f"{rollout:06d}.jsonl.gz", rows)
    return run


def type_out(page: Any, text: str) -> None:
    for length in range(1, len(text) + 1):
        page.fill("#query", text[:length])
        page.wait_for_timeout(100)  # longer than the page waits for the next letter


def look(page: Any, report: Path) -> None:
    def when(expression: str) -> None:
        deadline = time.monotonic() + 60
        while not page.evaluate(expression):
            if time.monotonic() > deadline:
                sys.exit(f"never came: {expression}")

    def shown(text: str) -> Callable[[], None]:
        return lambda: when(f"document.querySelector('#count').textContent.startsWith({text!r})")

    def timed(name: str, *actions: Callable[[], Any]) -> None:
        page.evaluate("() => { window.longest = 0; }")
        started = time.perf_counter()
        for action in actions:
            action()
        spent = time.perf_counter() - started
        page.wait_for_timeout(150)
        longest = page.evaluate("window.longest")
        print(f"{name:40} {1000 * spent:7.0f} ms, longest task {longest:5.0f} ms")

    ready = "document.documentElement.dataset.ready === 'true'"
    timed("open", lambda: page.goto(report.as_uri()), lambda: when(ready))
    timed("browse", lambda: page.click("#view-browse"), lambda: when("document.querySelector('#list .item') !== null"))
    print(f"  {page.inner_text('#count')}")
    everything = page.inner_text("#count").split()[0]
    page.click(".more-filters summary")
    for text in ("wait, ", "no such text"):
        timed(f"typed {text!r}", lambda text=text: type_out(page, text), lambda: page.wait_for_timeout(100))
    timed("clear", lambda: page.click("#clear"), shown(everything))
    timed("only the wrong ones", lambda: page.select_option("#verdict", "wrong"),
          lambda: when(f"!document.querySelector('#count').textContent.startsWith({everything!r})"))  # fmt: skip
    timed("all of them again", lambda: page.click("#clear"), shown(everything))
    page.focus("#list")
    timed("to the end", lambda: page.keyboard.press("End"),
          lambda: when("document.querySelector('#list [aria-selected=\"true\"]') !== null"))  # fmt: skip
    timed("up 100 rows", lambda: [page.keyboard.press("ArrowUp") for _ in range(100)])
    wheel = "document.querySelector('#list').scrollTop = document.querySelector('#list').scrollHeight * {}"
    timed("scrolled to 100 places", lambda: [page.evaluate(wheel.format(i / 100)) for i in range(100)])
    timed("light to dark", lambda: page.emulate_media(color_scheme="dark"))
    timed("to a narrow window", lambda: page.set_viewport_size({"width": 390, "height": 800}))


if __name__ == "__main__":
    main()
