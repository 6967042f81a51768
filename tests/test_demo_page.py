"""The demo as a user gets it: run once, its pages opened in a real browser, their numbers those of the reports."""

from __future__ import annotations

import time

import pytest

import maxslope as ms
from maxslope.reports.text import number

pytest.importorskip("sklearn", reason="the demo needs scikit-learn")
pytest.importorskip("bokeh", reason="the demo needs the plots extra")
pytest.importorskip("matplotlib", reason="the demo needs the plots extra")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, reports, pages, seconds)."""
    from maxslope.demo import run_demo

    out, start, told = tmp_path_factory.mktemp("demo"), time.monotonic(), []
    reports, pages = run_demo(out, lambda *a: told.append(a), quick=True)
    assert told[-1][0] == told[-1][1] == 256
    return out, reports, pages, time.monotonic() - start


def test_files(demo):
    out, reports, pages, _ = demo
    assert pages == [out / "robust" / "report.html", out / "plain" / "report.html"]
    assert (out / "flow.png").read_bytes().startswith(b"\x89PNG")
    for report, page in zip(reports, pages):
        assert {p.name for p in page.parent.iterdir()} == {"report.html", "report.json", "records.csv"}
        saved = ms.Report.from_json(page.with_name("report.json"))
        assert saved.records == report.records == ms.Records.from_csv(page.with_name("records.csv"))
        assert 100_000 < page.stat().st_size < 4_000_000


def test_what_the_demo_shows(demo):
    _, (robust, plain), _, _ = demo
    for report in (robust, plain):
        assert report.n == 128
        assert report.all_flags == ()
        assert report.clean_accuracy > 0.95
        rates = [float(r) for (norm, _), r in report.worst_case.items() if norm == "linf"]
        assert rates == sorted(rates, reverse=True)
        assert report.examples
    for budget, rate in plain.worst_case.items():
        assert robust.worst_case[budget] > rate + 0.1, "adversarial training pays"


def test_the_same_again(demo, tmp_path):
    from maxslope.data import load_data
    from maxslope.demo import adversaries

    _, (_, plain), _, _ = demo
    again = ms.evaluate(
        ms.models.digits_cnn(),
        load_data("digits", limit=128),
        adversaries(quick=True),
        examples=0,
        diagnose=True,
    )
    assert again.records == plain.records


@pytest.mark.page
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("which", [0, 1])
def test_page(demo, open_page, which, width):
    _, reports, pages, _ = demo
    report = reports[which]
    page, seen = open_page(pages[which], width)
    charts = page.locator(".plot")
    assert charts.count() >= 3
    for k in range(charts.count()):
        charts.nth(k).scroll_into_view_if_needed()
        assert charts.nth(k).locator("canvas").count() >= 1
        box = charts.nth(k).bounding_box()
        assert box["width"] <= width
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for image in page.locator("img").all():
        assert image.evaluate("e => e.complete && e.naturalWidth > 0")
    wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    assert max(wide[:2]) <= wide[2] == width
    text = " ".join(page.evaluate("document.body.textContent").split())
    for rate in (report.clean_accuracy, *report.worst_case.values(), *report.robust_accuracy.values()):
        assert f"{100 * rate:.1f} %" in text
        assert f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %" in text
    for name in report.robust_accuracy:
        row = page.locator("tr", has_text=name).first.inner_text()
        assert f"{100 * report.robust_accuracy[name]:.1f}" in row
    for _, eps in report.worst_case:
        assert number(eps) in text
    assert "One flow, two norms of motion" in text
    assert seen == []
