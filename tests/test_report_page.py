"""The report page in a real browser: nothing fails, nothing is asked of the network, nothing hostile runs."""

from __future__ import annotations

import io
import itertools
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from maxslope.errors import InputError, MissingExtraError
from maxslope.findings import Example, Flag
from maxslope.records import Records
from maxslope.reports import Report, following
from maxslope.reports.images import view

pytest.importorskip("bokeh", reason="the page needs the plots extra")

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"'`><svg onload=alert(4)>",
    "{{7*7}} {% raw %} ${7*7}",
    "$$\\alpha$$ \\(x\\)",
    "@name{safe} $x <b>",
    "\u202eright to left \u2069 שלום",
    "😀👩‍👩‍👧",
    "\0\x1b[31m\ud800",
    "x" * 100_000,
]


def make(n=40, names=("fgsm", "pgd"), grid=(0.05, 0.1), classes=10, status=None, shapes=((1, 8, 8),), **meta):
    """A report with the shape of a real one: an adversary breaks the samples within its reach."""
    draw = np.random.default_rng(0)
    margin = np.sort(draw.uniform(0, 0.2, n))
    rows, examples = [], []
    for (k, family), eps in itertools.product(enumerate(names), grid):
        for i in range(n):
            correct, reach = i >= 2, margin[i] * (1.3 if k == 0 else 1)
            outcome = status or ("broken" if reach <= eps or not correct else "robust")
            rows.append(
                {
                    "adversary": f"{family} {eps:g}",
                    "family": family,
                    "norm": meta.get("norm", "linf"),
                    "eps": eps,
                }
                | {"index": i, "label": i % classes, "clean_pred": (i + (not correct)) % classes}
                | {"adv_pred": (i + 1) % classes, "clean_correct": correct, "status": outcome, "energy": -1.0}
                | {"distance": (reach if correct else 0.0) if outcome == "broken" else None}
                | {"forwards": 20 * k + 2, "backwards": 20 * k + 1, "reason": SCRIPT}
            )
    for i, shape in enumerate(shapes):
        x = draw.uniform(0, 1, shape).astype(np.float32)
        move = np.float32(grid[-1]) * np.sign(draw.normal(size=shape)).astype(np.float32)
        fields = {
            "x": x,
            "x_adv": x + move,
            "energies": -(np.linspace(0, 1, 6) ** 2),
            "times": np.arange(6) / 50,
        }
        examples.append(
            Example(i + 2, i % classes, 1, 2, f"{names[-1]} {grid[-1]:g}", grid[-1], "linf", **fields)
        )
    return Report(
        Records.from_rows(rows), {"model": "m:cnn", "data": "digits", "bounds": (0, 1)} | meta, (), examples
    )


def diagnosed(report: Report, verdicts=("follows", "chatters", "stuck"), **columns) -> Report:
    """The report with a diagnosis of every sample that was attacked."""
    r, draw = report.records, np.random.default_rng(1)
    slopes, defects = draw.uniform(0.5, 2, len(r)), draw.normal(0, 0.3, len(r))
    table = {
        "energy_drop": slopes * (1 - defects),
        "dissipation": slopes,
        "relative_defect": defects,
    } | columns
    table = {k: np.where(r.clean_correct, v, np.nan) for k, v in table.items()}
    words = np.array(
        [verdicts[i % len(verdicts)] if ok else "" for i, ok in enumerate(r.clean_correct)], object
    )
    return replace(report, records=replace(r, **table, flow_verdict=words))


def hostile() -> Report:
    flags = [Flag(HOSTILE[0], "danger", HOSTILE[1], 1, (3,)), Flag(HOSTILE[10], "warning", HOSTILE[10])]
    meta = {
        "model": HOSTILE[2],
        "data": HOSTILE[10],
        "class_names": HOSTILE,
        "note": HOSTILE,
        HOSTILE[3]: HOSTILE[0],
    }
    report = make(names=HOSTILE, classes=len(HOSTILE), shapes=[(1, 8, 8)] * 3 + [(2,)] * 3 + [(5,)], **meta)
    report = diagnosed(report, HOSTILE)
    report.flags = tuple(flags)
    report.figures = [(HOSTILE[0], HOSTILE[1], png())]
    return report


def png() -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("L", (40, 20), 128).save(buffer, "PNG")
    return buffer.getvalue()


def flow_figure():
    from bokeh.plotting import figure

    fig = figure(width=900, height=300, title="a flow")
    fig.line([0, 1, 2], [0, 1, 0])
    return fig


REPORTS = {
    "usual": lambda: make(seed=0, seconds=1.5, versions={"torch": "2.13"}),
    "hostile": hostile,
    "one adversary, no examples": lambda: make(names=("pgd",), grid=(0.1,), shapes=()),
    "one sample": lambda: make(n=1, grid=(0.1,), names=("pgd",)),
    "errors only": lambda: make(status="error"),
    "no budget": lambda: make(n=8, names=("fmn",), grid=(math.nan,), shapes=()),
    "eps zero": lambda: make(grid=(0.0,), shapes=()),
    "many": lambda: make(n=2000, names=[f"adversary {k}" for k in range(12)], grid=(8 / 255,), classes=1000),
    "color, points, vectors": lambda: make(
        shapes=[(3, 8, 8), (8, 8), (2,), (2,), (7,), (1, 1, 600, 3), (3, 600, 300)]
    ),
    "diagnosed": lambda: diagnosed(make(n=300, names=("fgsm", "pgd", "minmove"))),
    "all stuck": lambda: diagnosed(
        make(grid=(0.1,)), ["stuck"], energy_drop=0.0, dissipation=0.0, relative_defect=math.nan
    ),
    "infinite energies": lambda: diagnosed(
        make(), ["nonfinite"], energy_drop=math.nan, dissipation=math.inf, relative_defect=math.inf
    ),
    "verdicts alone": lambda: diagnosed(
        make(), energy_drop=math.nan, dissipation=math.nan, relative_defect=math.nan
    ),
    "odd norm": lambda: make(norm="$$\\alpha$$ <b>" + "x" * 1000),
}


class Text(HTMLParser):
    """What a page shows, and what it could run or load."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.shown, self.tags, self.inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_data(self, data):
        if self.inside is None:
            self.shown.append(data)

    def handle_endtag(self, tag):
        self.inside = None


# --- without a browser -----------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_page_holds_only_its_own_tags(name):
    report = REPORTS[name]()
    page = report.to_html()
    parsed = Text(page)
    scripts = [attrs for tag, attrs in parsed.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "charts"}, {}, {}]
    for tag, attrs in parsed.tags:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form", "template")
        assert not [k for k in attrs if k.startswith("on") or k == "style"]
        assert "srcset" not in attrs
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attrs.get("href", "#").startswith("#")
    (policy,) = [a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "eval" not in policy
    assert re.search(r"script-src 'sha256-[^']+' 'sha256-[^']+';", policy)


def test_hostile_text_is_shown_whole():
    shown = "".join(Text(hostile().to_html()).shown)
    for text in HOSTILE:
        kept = text.replace("\ud800", "\\ud800").replace("\0", "�")
        assert text in shown or kept in shown or kept.replace("�", "\0") in shown


def test_page_is_the_same_every_time():
    report = make()
    pages = [re.sub(r'"p\d+"|[0-9a-f]{8}-[0-9a-f-]{27}', "ID", report.to_html()) for _ in range(2)]
    assert pages[0] == pages[1]
    size = len(pages[0].encode())
    assert size < 2_200_000


def test_numbers_on_the_page():
    report = make()
    shown = " ".join("".join(Text(report.to_html()).shown).split())
    for rate in (report.clean_accuracy, *report.worst_case.values(), *report.robust_accuracy.values()):
        assert f"{100 * rate:.1f} %" in shown
        assert f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %" in shown
    assert "2 of 40 samples were wrong before any attack" in shown
    assert "upper bound" in shown


def test_the_flows_on_the_page():
    page = make().to_html()
    assert "follow their flow" not in page
    report = diagnosed(make(n=300), ["deviates", "stuck"], relative_defect=0.25)
    parsed = Text(report.to_html())
    shown = " ".join("".join(parsed.shown).split())
    assert "Do the attacks follow their flow?" in shown
    assert "take more steps or a smaller tau" in shown
    assert "gradients may be masked" in shown
    cells = "|".join(text.strip() for text in parsed.shown if text.strip())
    assert "|pgd 0.1|ℓ∞ ≤ 0.1|298|25 %|25 %|50.0\xa0%|50.0\xa0%|" in cells
    assert "One point per sample" in shown


def test_each_verdict_is_explained():
    """The words of the page are those that a diagnosis gives."""
    from maxslope.diagnostics import KINDS

    shown = "".join(Text(diagnosed(make(n=60), list(KINDS), relative_defect=309.0).to_html()).shown)
    assert set(following.KINDS) == set(KINDS)
    for text in following.KINDS.values():
        assert text in shown
    assert "> 1000 %" in shown
    shown = "".join(Text(diagnosed(make(), ["stuck"]).to_html()).shown)
    assert following.KINDS["chatters"] not in shown


def test_many_flows_are_drawn_in_part():
    report = diagnosed(make(n=2000, names=[f"a {k}" for k in range(12)], grid=(0.1,), classes=10))
    page = report.to_html()
    assert "Up to 166 samples of each adversary are drawn" in page
    assert len(page.encode()) < 2_500_000


def test_pictures_show_the_pixels():
    image = pytest.importorskip("PIL.Image")
    import base64

    x = np.array([[[0.0, 0.5], [1.0, 0.2]]])
    x_adv = np.array([[[0.1, 0.5], [0.9, 0.25]]])
    shown = view(Example(0, 0, 0, 1, "pgd", 0.1, "linf", x, x_adv), (0, 1), str)
    clean, adversarial, difference = (
        np.array(image.open(io.BytesIO(base64.b64decode(p.uri.split(",")[1])))) for p in shown.pictures
    )
    assert clean.tolist() == [[0, 128], [255, 51]]
    assert adversarial.tolist() == [[26, 128], [230, 64]]
    assert difference.tolist() == [[255, 128], [0, 191]]
    assert shown.pictures[2].caption == "difference, ±0.1"
    other = view(Example(0, 0, 0, 1, "pgd", 0.1, "l2", np.zeros(3), np.array([0, 0.5, -1])), (0, 1), str)
    assert other.words == "largest of 2 changes: [2] 0 → -1; [1] 0 → 0.5"


def test_what_is_no_figure_is_refused():
    report = make(shapes=())
    for thing in (b"GIF89a", "text", object()):
        report.figures = [("a title", "a caption", thing)]
        with pytest.raises(InputError, match="'a title'"):
            report.to_html()


def test_missing_extra_names_the_command():
    code = (
        "import sys; sys.modules['bokeh'] = sys.modules['jinja2'] = None\n"
        "from maxslope.records import Records\nfrom maxslope.reports import Report\n"
        "r = {'adversary': 'a', 'index': 0, 'label': 0, 'clean_pred': 0, 'clean_correct': True}\n"
        "r['status'] = 'robust'\n"
        "report = Report(Records.from_rows([r])); print(report.table())\n"
        "try: report.to_html()\nexcept ImportError as e: print(type(e).__name__, e)\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert MissingExtraError.__name__ in out
    assert "pip install 'maxslope[plots]'" in out
    assert out.rstrip().endswith("False")


# --- in Chromium -----------------------------------------------------------------------------


@pytest.mark.page
@pytest.mark.parametrize("name", REPORTS)
def test_page_opens(open_page, tmp_path, name):
    report = REPORTS[name]()
    if name == "usual":
        report.figures = [("one flow", "a flow", flow_figure()), ("a picture", "gray", png())]
    path = report.save(tmp_path / "report.html")
    for width in (1280, 360):
        start = time.monotonic()
        page, seen = open_page(path, width)
        assert time.monotonic() - start < 10
        charts = page.locator(".plot")
        assert charts.count() >= 1
        for k in range(charts.count()):
            assert charts.nth(k).locator("canvas").count() >= 1
            assert charts.nth(k).bounding_box()["height"] > 200
        wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        assert max(wide[:2]) <= wide[2]
        for image in page.locator("img").all():
            assert image.evaluate("e => e.complete && e.naturalWidth > 0")
        # names in the tooltips are text as well
        for k in range(charts.count()):
            charts.nth(k).scroll_into_view_if_needed()
            box = charts.nth(k).bounding_box()
            for step in range(0, int(box["width"]), 24):
                page.mouse.move(
                    box["x"] + step, box["y"] + box["height"] * (0.05 + 0.85 * step / box["width"])
                )
        if name == "hostile":
            shown = page.evaluate("document.body.textContent")
            assert all(text in shown for text in HOSTILE if "\0" not in text)
            assert page.locator("main script, main img[src=x], main b").count() == 0
        assert seen == []


@pytest.mark.page
def test_policy_stops_what_is_not_ours(browser, tmp_path):
    """The test above can fail: a script, a style attribute and an image put into the page are all blocked."""
    page_text = make(shapes=()).to_html()
    planted = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'><p id=p style='color: red'>"
    path = tmp_path / "planted.html"
    path.write_text(page_text.replace("<main>", f"<main>{planted}", 1), encoding="utf-8")
    page = browser.new_page()
    seen: list[str] = []
    page.on("console", lambda m: m.type == "error" and seen.append(m.text))
    page.goto(path.as_uri())
    page.wait_for_function("Bokeh.documents.length > 0")
    assert page.evaluate("window.hit") is None
    assert page.evaluate("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    assert len(seen) >= 3
    page.close()
