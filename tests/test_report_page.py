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
        assert tag != "th" or attrs.get("scope") in ("row", "col")
        assert tag != "img" or attrs["alt"]
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


def test_flags_stand_beside_what_they_doubt():
    """A flag that names an adversary marks its row and its budget alone; one that names none marks every budget."""
    report = make()
    rows = tuple(range(12))
    named = Flag(
        "one-step-beats-many", "warning", "'fgsm 0.05' breaks 12 samples that 'pgd 0.05' leaves", 12, rows
    )
    parsed = Text(replace(report, flags=(named, Flag("cast", "info", "cast to float32"))).to_html())
    links = [a["href"] for tag, a in parsed.tags if tag == "a"]
    assert links.count("#flag-0") == 1 + 2  # the card of eps 0.05, the rows of both
    shown = " ".join("".join(parsed.shown).split())
    assert "fgsm 0.05 ⚠ℓ∞" in shown
    assert "pgd 0.1ℓ∞" in shown
    assert "samples 0, 1, 2, 3, 4, 5, 6, 7 and 4 more8, 9, 10, 11" in shown
    every = Text(replace(report, flags=(named, Flag("random", "danger", "it answers differently"))).to_html())
    assert shown.count("⚠ 1 flag") == 1
    shown = "".join(every.shown)
    assert (shown.count("⚠ 1 flag"), shown.count("⚠ 2 flags")) == (1, 1)


def test_the_most_fragile_are_named():
    from maxslope.reports.notable import fragile, worst

    report = make()
    r = report.records
    hit = (r.status == "broken") & r.clean_correct
    closest = {i: r.distance[hit & (r.index == i)].min() for i in set(r.index[hit].tolist())}
    want = sorted(closest, key=closest.__getitem__)[:8]
    assert [s.index for s in fragile(report, "linf")] == want
    assert [s.distance for s in fragile(report, "linf")] == [closest[i] for i in want]
    assert fragile(report, "l2") == []
    energy = np.where(r.adversary == "pgd 0.1", -np.arange(len(r), dtype=float), 0.0)
    far = np.where(hit, r.eps, r.distance)
    sure = replace(report, records=replace(r, energy=energy, distance=far))
    found = worst(sure, 5)
    assert {s.adversary for s in found} == {"pgd 0.1"}
    of = hit & (r.adversary == "pgd 0.1")
    assert [s.index for s in found] == r.index[of][np.argsort(energy[of])][:5].tolist()
    shown = " ".join("".join(Text(sure.to_html()).shown).split())
    assert "Most fragile, ℓ∞" in shown
    assert "Most confidently wrong, after pgd 0.1" in shown
    assert worst(REPORTS["no budget"]()) == []


def test_examples_come_by_distance():
    report = make(shapes=((1, 4, 4),) * 6)
    numbers = re.findall(r"Sample (\d+), label", " ".join("".join(Text(report.to_html()).shown).split()))
    r = report.records
    mine = {int(i): d for i, d, name in zip(r.index, r.distance, r.adversary) if name == "pgd 0.1"}
    assert [int(i) for i in numbers] == sorted(map(int, numbers), key=mine.__getitem__)
    assert len(numbers) == 6


def test_every_format_says_the_same(tmp_path):
    import json

    report = make(classes=5, class_names=["<b>a", "b|c", "d", "e", "f"])
    obj = json.loads(report.to_json())["summary"]
    for entry in obj["attribution"]:
        got = report.attribution(entry["norm"], entry["eps"])
        assert entry["adversaries"] == {name: a._asdict() for name, a in got.items()}
    assert obj["cost"] == {name: c._asdict() for name, c in report.cost().items()}
    page = report.save(tmp_path / "r.md").read_text()
    shown = "".join(Text(report.to_html()).shown)
    for row, entry in zip(report.per_class().values(), obj["classes"]):
        assert entry["name"] == row.name
        assert [w["value"] for w in entry["worst_case"]] == [float(r) for r in row.worst_case.values()]
        assert row.name in shown
        cells = " | ".join(
            str(r).replace("[", "\\[").replace("]", "\\]") for r in (row.clean, *row.worst_case.values())
        )
        assert f"| {row.clean.total} | {cells} |" in page
    assert "&lt;b&gt;a" in page
    r = report.records
    hit = (r.status == "broken") & r.clean_correct
    nearest = int(r.index[hit][np.argmin(r.distance[hit])])
    for text in (report.table(), page):
        assert f"sample {nearest} at" in text
    assert "weakest class: " in report.table()


def test_pictures_of_the_most_fragile_come_from_the_claims(tmp_path):
    """Of a real run: each point is the claim's, within its distance, and what is damaged is left out."""
    torch = pytest.importorskip("torch")
    import maxslope as ms
    from maxslope.reports.claimed import pictured
    from maxslope.reports.notable import fragile, worst

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    x = torch.rand(30, 1, 4, 4)
    y = model(x).argmax(1)
    adversaries = {"pgd": ms.pgd(0.2, steps=5, bounds=(0, 1)), "fmn": ms.fmn(steps=20, bounds=(0, 1))}
    report = ms.evaluate(model, (x, y), adversaries, out=tmp_path / "run", batch_size=7, examples=1)
    shown = pictured(report, tmp_path / "run", 3)
    wanted = fragile(report, "linf", 3) + worst(report, 3)
    assert [(e.adversary, e.index) for e in shown.examples][:6] == [(s.adversary, s.index) for s in wanted]
    for e, s in zip(shown.examples, wanted):
        assert np.array_equal(e.x, x[e.index].numpy())
        assert np.abs(e.x_adv - e.x).max() == pytest.approx(s.distance, rel=1e-5)
        assert model(torch.from_numpy(e.x_adv)[None]).argmax(1).item() == e.adv_pred != e.label
    text = "".join(Text(shown.to_html()).shown)
    assert all(f"fragile no. {k}" in text for k in (1, 2, 3))
    assert "confident no. 1" in text
    assert Report.from_json(shown.save(tmp_path / "r.json")) == shown
    for part in (tmp_path / "run" / "parts").glob("*.safetensors"):
        part.write_bytes(part.read_bytes()[:100])
    assert pictured(report, tmp_path / "run").examples == report.examples
    assert pictured(report, tmp_path / "nowhere").examples == report.examples


def test_half_of_the_samples():
    """Without a budget the headline is the median distance, with an interval that covers whatever the distances are."""
    draw, inside = np.random.default_rng(0), 0
    base = {"adversary": "fmn", "norm": "l2", "label": 0, "clean_pred": 0, "clean_correct": True}
    for _ in range(300):
        far = draw.exponential(1, 25)
        rows = [base | {"index": i, "status": "broken", "distance": d} for i, d in enumerate(far)]
        report = Report(Records.from_rows(rows))
        found = report.median_distance("l2")
        assert found.value == np.median(far)
        inside += found.low <= math.log(2) <= found.high
    assert inside >= 0.93 * 300
    shown = " ".join("".join(Text(report.to_html()).shown).split())
    assert f"Half break within ℓ2{found.value:.3g}{found.low:.3g} to {found.high:.3g}" in shown
    robust = [base | {"index": i, "status": "robust"} for i in range(9)]
    found = Report(Records.from_rows(robust)).median_distance("l2")
    assert (found.value, found.low, found.high) == (math.inf, math.inf, math.inf)
    assert Report(Records.from_rows(rows[:3])).median_distance("l2").high == math.inf


def test_curves_of_what_was_spent():
    """The cascade ends at the worst case; an adversary's line falls by its successes, at what each of them cost."""
    from maxslope.reports.costs import _fall

    report = make()
    for norm, eps in report.budgets:
        steps = report.cascade(norm, eps)
        assert steps[0].rate == report.clean_accuracy
        left = [float(step.rate) for step in steps]
        assert left == sorted(left, reverse=True)
        spent = [step.passes for step in steps]
        assert spent == sorted(spent)
        assert spent[-1] * 38 == pytest.approx((3 + 43) * 40)
    assert steps[-1].rate == report.worst_case["linf", 0.1]
    r = report.records
    run = report.runs[-1]
    forwards = r.forwards.copy()
    forwards[run.rows] = draw = np.random.default_rng(0).integers(1, 90, len(run.rows))
    report = replace(report, records=replace(r, forwards=forwards, backwards=0 * r.backwards))
    x, left = _fall(report, run)
    broken = (r.status[run.rows] == "broken") & r.clean_correct[run.rows]
    for k in (0, 5, 30, 89):
        fallen = int((broken & (draw <= k)).sum())
        assert left[np.searchsorted(x, k, side="right") - 1] == pytest.approx((38 - fallen) / 40)


def test_the_curve_of_one_adversary():
    report = make(names=("fgsm", "fmn"), grid=(math.nan,), status="broken")
    r = report.records
    assert {run.name for run in report.searched("linf")} == {"fgsm nan", "fmn nan"}
    for run in report.runs:
        curve = report.curve("linf", run.name)
        far = r.distance[run.rows][r.clean_correct[run.rows]]
        for eps in (0.0, 0.03, 0.11):
            at = np.searchsorted(curve.eps, eps, side="right") - 1
            assert curve.value[at] == pytest.approx((far > eps).sum() / 40)
    together = report.curve("linf")
    assert (np.diff(together.value) <= 0).all()
    assert "fmn nan, from its own distances" in "".join(Text(report.to_html()).shown)


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
    for width in (1280, 390 if name in ("usual", "diagnosed") else 360):
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
            for step in range(0, int(box["width"]), 48):
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
