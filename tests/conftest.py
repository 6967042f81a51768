"""Where tests run, and a headless Chromium for those that open a page."""

from __future__ import annotations

import shutil

import pytest

FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# Files whose tests share something that takes seconds to make: they run in one process, so that it is made once.
TOGETHER = {
    "test_check_runs",
    "test_compare",
    "test_demo_page",
    "test_hostile",
    "test_runs_kills",
    "test_study_adversarial_flows",
    "test_study_distributional",
    "test_study_limits",
    "test_transport_report",
    "test_weights",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return file if file.removeprefix("tests/").removesuffix(".py") in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome here")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS.split(), "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """open_page(path, width) -> (page, what a good page never does: messages, dialogs, requests, blocked things)."""
    contexts = []

    def open_page(path, width=1280):
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        page, seen = context.new_page(), []
        page.on("console", lambda m: m.type in ("error", "warning") and seen.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: seen.append(f"exception: {e}"))
        page.on("dialog", lambda d: (seen.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or seen.append(f"request: {r.url}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective))"
        )
        page.goto(path.as_uri())
        page.wait_for_function("Bokeh.documents.length && Bokeh.documents.every(d => d.is_idle)")
        return page, seen

    yield open_page
    for context in contexts:
        context.close()
