"""Runs side by side: the numbers against brute force, what is refused, every format, and the page in a real browser."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxslope.errors import InputError, ShapeError
from maxslope.findings import Example, Flag
from maxslope.records import Records
from maxslope.reports import Report, compare
from maxslope.reports.comparison_text import TOGETHER, to_csv, verdict
from maxslope.reports.pairs import exact_p, holm, pair
from maxslope.reports.sameness import apart

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"'`><svg onload=alert(4)>",
    "{{7*7}} {% raw %} ${7*7} $$\\alpha$$",
    "@name{safe} $x <b>",
    "\u202eright to left \u2069 שלום",
    "😀👩‍👩‍👧",
    "=HYPERLINK(1)|*_`",
    "\0\x1b[31m\ud800",
    "x" * 100_000,
]


def rows(distances, norm="linf", eps=(0.1, 0.2), name="pgd", first=0, labels=None, **more):
    """Records of one adversary at several eps: sample i breaks from distances[i] on; 0 is wrong before any attack."""
    table = []
    for e, (i, d) in itertools.product(eps, enumerate(distances)):
        label = i % 3 if labels is None else labels[i]
        hit = d <= e if e is not None else math.isfinite(d)
        row = {
            "adversary": name if e is None else f"{name} {e:g}",
            "family": name,
            "norm": norm,
            "eps": e,
            "index": i + first,
            "label": label,
            "clean_correct": d > 0,
            "clean_pred": label if d > 0 else label + 1,
            "adv_pred": label + 1 if hit else label,
            "status": "broken" if hit else "robust",
            "distance": d if hit else None,
            "forwards": 4,
            "backwards": 3,
        }
        table.append(row | more)
    return table


def report(distances, meta=None, flags=(), examples=(), **more) -> Report:
    return Report(
        Records.from_rows(rows(distances, **more)), {"data": "digits"} | (meta or {}), flags, examples
    )


def drawn(seed, n=60, scale=0.3):
    d = np.random.default_rng(seed).uniform(0, scale, n)
    d[:3] = 0
    return d


# --- the paired numbers ----------------------------------------------------------------------


def test_exact_p_is_the_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    for b, c in itertools.product(range(16), range(16)):
        want = stats.binomtest(b, b + c).pvalue if b + c else 1.0
        assert exact_p(b, c) == pytest.approx(want, abs=1e-13)
    assert exact_p(3, 900) == exact_p(900, 3) < 1e-200


def test_holm_against_its_definition():
    draw = np.random.default_rng(0)
    for n in (1, 2, 3, 7):
        p = draw.uniform(0, 0.2, n).tolist()
        got = holm(p)
        for level in np.linspace(0.001, 0.999, 97):
            # reject the smallest as long as each is below level / (how many are left)
            rejected, ordered = set(), sorted(range(n), key=p.__getitem__)
            for k, i in enumerate(ordered):
                if p[i] * (n - k) > level:
                    break
                rejected.add(i)
            assert {i for i in range(n) if got[i] <= level} == rejected


def trinomial(n, b, c, p, q):
    """The chance of b and c among n of two outcomes with chances p and q."""
    ways = math.comb(n, b) * math.comb(n - b, c)
    return ways * p**b * q**c * (1 - p - q) ** (n - b - c)


def test_the_interval_covers():
    """Over every outcome of 20 samples, the true difference lies inside with a chance of at least 94 %."""
    n, found = 20, {}
    for b in range(n + 1):
        for c in range(n + 1 - b):
            first, second = np.zeros(n), np.zeros(n)
            first[:b], second[b : b + c] = 1, 1
            found[b, c] = pair(first, second)
    grid = (0.0, 0.02, 0.1, 0.3, 0.5, 0.9)
    chances = []
    for p, q in itertools.product(grid, grid):
        if p + q <= 1:
            inside = [
                trinomial(n, b, c, p, q)
                for (b, c), f in found.items()
                if f.low - 1e-12 <= q - p <= f.high + 1e-12
            ]
            chances.append(math.fsum(inside))
    assert min(chances) > 0.94
    assert 0.95 < np.mean(chances) < 0.985  # and it is not bought by width


shares = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2), min_size=1, max_size=30)


@given(shares)
@settings(max_examples=60, deadline=None)
def test_laws_of_a_pair(both):
    a, b = np.array(both).T
    f, g = pair(a, b), pair(b, a)
    assert f.difference == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert (g.only_first, g.only_second, g.p) == (f.only_second, f.only_first, f.p)
    assert (g.low, g.high) == pytest.approx((-f.high, -f.low))
    assert -1 <= f.low <= f.difference + 1e-12
    assert f.difference - 1e-12 <= f.high <= 1
    assert f.high > f.low
    assert f.only_first == sum(x > y for x, y in both)
    twice = pair(np.tile(a, 4), np.tile(b, 4))
    assert twice.high - twice.low < f.high - f.low


def test_what_is_no_pair():
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        pair(np.ones(2), np.ones(3))
    with pytest.raises(InputError, match="samples in common"):
        pair(np.ones(0), np.ones(0))


# --- the comparison --------------------------------------------------------------------------


def test_numbers_against_brute_force():
    d = {name: drawn(k) for k, name in enumerate(("a", "b", "c"))}
    found = compare({name: report(v, {"model": name}) for name, v in d.items()})
    assert found.budgets == [("linf", 0.1), ("linf", 0.2)]
    for (k, name), (norm, eps) in itertools.product(enumerate(d), found.budgets):
        left = d[name] > eps
        assert found.rate(k, (norm, eps)).count == left.sum()
        assert (found.survival(k, (norm, eps)) == left).all()
        others = [v <= eps for other, v in d.items() if other != name]
        hit = (d[name] <= eps) & (d[name] > 0)
        (alone,) = [a for a in found.alone if a.run == name and a.budget == (norm, eps)]
        want = np.flatnonzero(
            hit & ~np.any([o & (d[n] > 0) for n, o in zip(set(d) - {name}, others)], axis=0)
        )
        assert alone.broken == hit.sum()
        if all((v[:3] == 0).all() for v in d.values()):  # the same samples are wrong in all of them
            assert alone.rows == tuple(want.tolist())
    assert len(found.differences) == 3 * 3
    for diff in found.differences:
        eps = 0.0 if diff.budget is None else diff.budget[1]
        x, y = d[diff.first] > eps, d[diff.second] > eps
        assert diff.pair == pair(x, y)
        assert diff.adjusted >= diff.pair.p
    assert {s.run: (s.forwards, s.backwards) for s in found.spent} == dict.fromkeys(d, (480, 360))
    assert found.together(("linf", 0.1)) is None
    assert [s.name for s in found.settings] == ["model"]


def test_only_common_samples_are_compared():
    a, b = report(drawn(0), first=0), report(drawn(0)[20:], first=20, labels=[i % 3 for i in range(20, 60)])
    found = compare([a, b])
    assert found.n == 40
    assert found.index.tolist() == list(range(20, 60))
    assert found.totals == (60, 40)
    assert "Only the 40 samples" in found.remarks[0]
    assert [f.pair.difference for f in found.differences] == [0, 0, 0]
    assert {s.forwards for s in found.spent} == {320}


def test_runs_on_one_model_are_put_together():
    a, b = drawn(0), drawn(1)
    found = compare({"a": report(a, {"model": "net"}), "b": report(b, {"model": "net"})})
    assert found.one_model
    for budget in found.budgets:
        assert found.together(budget).count == (np.minimum(a, b) > budget[1]).sum()
    assert "All runs are on one model" in " ".join(found.remarks)
    assert TOGETHER in found.table()
    told = [d for d in found.differences if d.adjusted < 0.05]
    for d in told:
        assert verdict(found, d).endswith("breaks more")
    hashes = [{"model": "net", "hashes": {"model": h, "data": "d"}} for h in ("1", "2")]
    found = compare({"a": report(a, hashes[0]), "b": report(b, hashes[1])})
    assert not found.one_model


def test_the_verdict_goes_by_the_better_one():
    strong, weak = report(drawn(0) * 0 + 0.5, {"model": "s"}), report(drawn(0) * 0 + 0.01, {"model": "w"})
    for names in (("strong", "weak"), ("weak", "strong")):
        found = compare({n: {"strong": strong, "weak": weak}[n] for n in names})
        clean, *under = found.differences
        assert verdict(found, clean) == "cannot be told apart"
        assert {verdict(found, d) for d in under} == {"strong is more robust"}


def test_distances_are_compared_at_their_quartiles():
    """Runs without any budget have one where a quarter, a half and three quarters of what they broke is broken."""
    a, b = drawn(0), drawn(1)
    found = compare(
        {"a": report(a, eps=(None,), norm="l2"), "b": report(b, eps=(None,), norm="l2", name="fmn")}
    )
    far = np.concatenate([a[a > 0], b[b > 0]])
    assert [norm for norm, _ in found.budgets] == ["l2"] * 3
    for (_, eps), q in zip(found.budgets, (0.25, 0.5, 0.75)):
        assert abs(eps - np.quantile(far, q)) < 0.01
        assert found.rate(0, ("l2", eps)).count == (a > eps).sum()
    mixed = compare({"a": report(a, eps=(None,)), "b": report(b)})
    assert mixed.budgets == [("linf", 0.1), ("linf", 0.2)]


def test_a_budget_that_one_run_lacks():
    found = compare(
        {"a": report(drawn(0)), "b": report(drawn(1), eps=(0.1,)), "c": report(drawn(2), eps=(0.1, 0.2, 0.3))}
    )
    assert found.budgets == [("linf", 0.1), ("linf", 0.2)]
    assert found.rate(1, ("linf", 0.2)) is None
    at = [(d.first, d.second) for d in found.differences if d.budget == ("linf", 0.2)]
    assert at == [("a", "c")]
    assert "–" in found.table()


def test_errors_and_random_models():
    errors = report(drawn(0) * 0 + 0.5, status="error", reason="NaN", adv_pred=0)
    half = report(drawn(0) * 0 + 0.5, survived=0.5)
    found = compare({"errors": errors, "half": half})
    assert found.rate(0, ("linf", 0.1)).count == 0
    assert found.rate(1, ("linf", 0.1)).count == 30
    assert "60 samples of errors are errors" in " ".join(found.remarks)
    assert [a.broken for a in found.alone] == [0] * 4
    d = found.differences[1]
    assert d.pair.only_second == 60
    assert d.pair.difference == 0.5


def test_flags_and_other_attacks_are_said():
    flag = Flag("zero-gradient", "danger", "no gradient")
    found = compare(
        {"a": report(drawn(0), {"model": "a"}, [flag]), "b": report(drawn(1), {"model": "b"}, name="fgsm")}
    )
    said = " ".join(found.remarks)
    assert "a has flags that put its numbers in doubt: zero-gradient" in said
    assert "not attacked in the same way (other adversaries or budgets)" in said
    recipes = [{"model": m, "recipes": {"pgd 0.1": f"pgd(steps={s})"}} for m, s in (("a", 5), ("b", 6))]
    found = compare({"a": report(drawn(0), recipes[0]), "b": report(drawn(1), recipes[1])})
    assert "the adversaries have other parameters" in " ".join(found.remarks)
    assert {s.name for s in found.settings} == {"model", "recipes pgd 0.1"}


def test_settings_that_differ():
    a = {"seed": 0, "versions": {"torch": "2.13"}, "seconds": 1.0, "title": "x", "bounds": [0, 1]}
    b = {"seed": 1, "versions": {"torch": "2.12"}, "seconds": 9.0, "title": "y", "bounds": [0, 1]}
    found = compare([report(drawn(0), a), report(drawn(0), b)])
    assert {s.name: s.values for s in found.settings} == {
        "seed": ("0", "1"),
        "versions torch": ("2.13", "2.12"),
    }
    assert found.names == ("x", "y")
    assert compare([report(drawn(0), {"model": "m"})] * 2).names == ("m (1)", "m (2)")
    assert apart(["x" * 200, None]) == ("x" * 200, None)
    assert apart(["a", "b"]) == ("a", "b")
    long = "a=1, " * 40
    assert apart([long + "b=2, c=3", None, long + "b=5, c=3"]) == ("… b=2 …", None, "… b=5 …")


def image(index, value):
    x = np.full((1, 2, 2), value)
    return Example(index, 0, 0, 1, "pgd 0.1", 0.1, "linf", x, x)


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (report(drawn(0), {"data": "digits"}), report(drawn(0), {"data": "mnist"}), "'digits'.*'mnist'"),
        (
            report(drawn(0), {"hashes": {"data": "1" * 64}}),
            report(drawn(0), {"hashes": {"data": "2" * 64}}),
            "sha256 of the data is 1111111111111111.*2222222222222222",
        ),
        (report(drawn(0)), report(drawn(0), labels=[1] * 60), "sample 0 has label 0.*and 1"),
        (report(drawn(0)), report(drawn(0), first=100), "no sample in common.*0 to 59.*100 to 159"),
        (report(drawn(0)), report(drawn(0), eps=(0.3,)), "same budget.*linf 0.1, linf 0.2.*linf 0.3"),
        (report(drawn(0)), report(drawn(0), norm="l2"), "same budget"),
        (
            report(drawn(0), examples=[image(4, 0.5)]),
            report(drawn(0), examples=[image(4, 0.25)]),
            "sample 4 is another one",
        ),
    ],
)
def test_what_cannot_be_compared(a, b, match):
    with pytest.raises(InputError, match=f"(?s){match}"):
        compare({"one": a, "two": b})


def test_what_is_no_comparison():
    a = report(drawn(0))
    for few in ([], [a]):
        with pytest.raises(InputError, match="at least two runs"):
            compare(few)
    with pytest.raises(InputError, match="needs Reports, got str"):
        compare({"a": a, "b": "report"})
    with pytest.raises(InputError, match="no records"):
        compare([a, Report(Records.empty())])
    hashes = [{"hashes": {"data": "1" * 64}, "data": name} for name in ("digits", "my digits")]
    assert compare([report(drawn(0), meta) for meta in hashes]).n == 60  # the hash says more than the name


# --- formats ---------------------------------------------------------------------------------


def hostile():
    runs = {}
    for k, name in enumerate(HOSTILE):
        meta = {"model": name, "note": HOSTILE[-k], name: SCRIPT, "class_names": HOSTILE}
        runs[name] = report(drawn(k), meta, [Flag(name, "danger", name)], name=HOSTILE[(k + 1) % 3])
    return compare(runs)


def usual():
    return compare(
        {"plain": report(drawn(0, scale=0.2), {"model": "a"}), "robust": report(drawn(1), {"model": "b"})}
    )


def test_json_is_strict_and_whole():
    def refuse(constant):
        raise AssertionError(constant)

    for found in (usual(), hostile()):
        obj = json.loads(found.to_json(), parse_constant=refuse)
        assert obj["runs"] == list(found.names)
        assert obj["samples"] == 60
        clean, *under = obj["accuracy"]
        assert clean["norm"] is None
        for entry, budget in zip(under, found.budgets):
            assert (entry["norm"], entry["eps"]) == budget
            for k, name in enumerate(found.names):
                assert entry["runs"][name]["value"] == float(found.rate(k, budget))
        assert [d["p"] for d in obj["differences"]] == [d.pair.p for d in found.differences]
        assert [a["rows"] for a in obj["alone"]] == [list(a.rows) for a in found.alone]


def test_csv_holds_every_sample():
    for found in (usual(), hostile()):
        csv.field_size_limit(2**24)
        text = io.StringIO(to_csv(found), newline="")
        lines = list(csv.DictReader(text))
        assert len(lines) == found.n * len(found.names) * (1 + len(found.budgets))
        for k, name in enumerate(found.names):
            plain = [r for r in lines if r["run"].removeprefix("'") == name and r["eps"] == "0.1"]
            assert [float(r["survived"]) for r in plain] == found.survival(k, ("linf", 0.1)).tolist()
        assert not [r for r in lines if r["run"].startswith(("=", "@"))]


def test_text_and_markdown_are_inert(tmp_path):
    found = hostile()
    text = found.table()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2069\ud800]", text)
    assert max(map(len, text.splitlines())) < 1500
    page = found.save(tmp_path / "c.md").read_text()
    assert "<script" not in page
    assert "<img" not in page
    cells = [line for line in page.splitlines() if line.startswith("|")]
    assert all(
        len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", cells[0])) for line in cells[:3]
    )
    for line in usual().table().splitlines():
        assert line == line.rstrip()


def test_save_by_suffix(tmp_path):
    pytest.importorskip("bokeh")
    found = usual()
    for suffix in ("html", "json", "csv", "md", "txt"):
        assert found.save(tmp_path / "new" / f"c.{suffix}").stat().st_size > 500
    assert (tmp_path / "new" / "c.txt").read_text() == found.table()
    with pytest.raises(InputError, match=r"'.*c\.pdf': use \.html, \.json, \.csv, \.md or \.txt"):
        found.save(tmp_path / "c.pdf")


class Tags(HTMLParser):
    """What a page shows, and its tags."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.shown, self.tags, self.inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.shown.append(data)


PAGES = {
    "usual": usual,
    "hostile": hostile,
    "distances": lambda: compare([report(drawn(k), eps=(None,), norm="l2") for k in range(2)]),
    "nothing counted": lambda: compare([report(drawn(k), forwards=0, backwards=0) for k in range(2)]),
    "many": lambda: compare([report(drawn(k, n=200)) for k in range(9)]),
    "one sample": lambda: compare([report([0.15]), report([0.05])]),
}


@pytest.mark.parametrize("name", PAGES)
def test_page_holds_only_its_own_tags(name):
    pytest.importorskip("bokeh")
    found = PAGES[name]()
    parsed = Tags(found.to_html())
    assert [a for tag, a in parsed.tags if tag == "script"] == [
        {"type": "application/json", "id": "charts"},
        {},
        {},
    ]
    for tag, attrs in parsed.tags:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form", "template", "img", "b")
        assert not [k for k in attrs if k.startswith("on") or k in ("style", "src", "srcset")]
        assert attrs.get("href", "#").startswith("#")
        assert tag != "th" or attrs.get("scope") in ("col", "row")
    (policy,) = [a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    shown = " ".join("".join(parsed.shown).split())
    for k in range(len(found.names)):
        for budget in (None, *found.budgets):
            rate = found.rate(k, budget)
            assert f"{100 * rate:.1f} %" in shown
            assert f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %" in shown


@pytest.mark.page
@pytest.mark.parametrize("name", PAGES)
def test_page_opens(open_page, tmp_path, name):
    path = PAGES[name]().save(tmp_path / "comparison.html")
    for width in (1280, 390, 360):
        page, seen = open_page(path, width)
        charts = page.locator(".plot")
        assert charts.count() >= (1 if name == "nothing counted" else 2)
        for k in range(charts.count()):
            assert charts.nth(k).bounding_box()["height"] > 200
        wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        assert max(wide[:2]) <= wide[2]
        if name == "hostile":
            shown = page.evaluate("document.body.textContent")
            assert all(text in shown for text in HOSTILE if "\0" not in text)
        assert seen == []


# --- the command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of three real runs on 40 digits, and one on 20 two-moons."""
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    from maxslope import cli

    home = tmp_path_factory.mktemp("runs")

    def run(name, model, data, *more):
        words = ["evaluate", "--model", f"maxslope.models:{model}", "--data", data, "--out", str(home / name)]
        with pytest.raises(SystemExit) as stopped:
            cli.main([*words, *more])
        assert not stopped.value.code

    digits = ("digits", "--limit", "40", "--eps", ".1,.2", "--steps", "5")
    run("mlp", "digits_mlp", *digits, "--adversary", "pgd")
    run("cnn", "digits_cnn", *digits, "--adversary", "pgd")
    run("longer", "digits_mlp", *digits[:-1], "20", "--adversary", "pgd", "--seed", "1")
    run("moons", "two_moons_relu", "two-moons", "--limit", "20", "--eps", ".1", "--adversary", "fgsm")
    return home


@pytest.fixture
def call(capsys, monkeypatch, runs):
    """call(*words) -> (exit code, output, errors), in the folder of the runs."""
    from maxslope import cli

    monkeypatch.chdir(runs)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words):
        code = 0
        try:
            cli.main(["compare", *map(str, words)])
        except SystemExit as stopped:
            code = stopped.code or 0
        got = capsys.readouterr()
        return code, got.out, " ".join(got.err.split())

    return call


def test_the_command_prints_what_the_library_says(call):
    code, out, err = call("mlp", "cnn")
    assert (code, err) == (0, "")
    there = [Report.from_json(Path(name) / "report.json") for name in ("mlp", "cnn")]
    want = compare(dict(zip(("mlp", "cnn"), there)))
    assert out.splitlines()[0] == "mlp and cnn"
    for k, name in enumerate(("mlp", "cnn")):
        (line,) = [v for v in out.splitlines() if v.startswith(f"  {name} ") and str(want.rate(k, None)) in v]
        assert all(str(want.rate(k, budget)) in line for budget in want.budgets)
    assert "hashes model" in out
    assert "hashes data" not in out
    assert "settings seed" not in out


def test_the_command_says_what_differs(call):
    _, out, _ = call("mlp", "longer")
    assert "All runs are on one model" in out
    assert TOGETHER in out
    assert "hashes" not in out
    assert re.search(r"recipes pgd \.1 +.*steps=5.* +.*steps=20", out)
    assert re.search(r"seed +0 +1", out)


@pytest.mark.parametrize("format", ["txt", "html", "json", "csv", "md"])
def test_the_command_writes_every_format(call, runs, format):
    if format == "html":
        pytest.importorskip("bokeh")
    code, out, _ = call("mlp", "cnn", "longer", "--out", f"new/c.{format}")
    assert (code, out.strip()) == (0, f"new/c.{format}")
    assert (runs / "new" / f"c.{format}").stat().st_size > 500
    code, out, _ = call("mlp", "cnn/report.json", "--format", format)
    assert code == 0
    if format == "txt":
        assert "accuracy" in out
    else:
        assert out.strip() == f"comparison.{format}"
        assert (runs / out.strip()).exists()


def test_an_unfinished_run_is_compared_as_far_as_it_is(call, runs):
    import shutil

    shutil.copytree(runs / "mlp", runs / "half")
    for file in ("report.json", "report.html", "records.csv"):
        (runs / "half" / file).unlink(missing_ok=True)
    code, out, _ = call("half", "cnn")
    assert code == 0
    assert "half" in out
    shutil.copytree(runs / "mlp", runs / "none")
    for part in (runs / "none" / "parts").iterdir():
        part.unlink()
    code, _, err = call("none", "cnn")
    assert code == 2
    assert "no sample of the run in 'none' is finished yet" in err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((), "at least two runs, none was given"),
        (("mlp",), "only 'mlp' was given"),
        (("mlp", "moons"), "'mlp' and 'moons' cannot be compared.*'digits'.*'two-moons'"),
        (("mlp", "nowhere"), "there is no nowhere"),
        (("mlp", "mlp"), "'mlp' is given twice"),
        (("mlp", "mlp/report.json"), "'mlp/report.json' is given twice"),
        (("mlp", "cnn", "--out", "c.pdf"), r"'c\.pdf'.*\.html, \.json"),
        (("mlp", "cnn", "--out", "c.md", "--format", "csv"), r"'c\.md' with --format csv.*ends with \.csv"),
        (("mlp", "cnn", "--format", "pdf"), "pdf"),
        (("mlp", "cnn", "--out", "mlp/report.json/c.md"), "cannot be written"),
    ],
)
def test_the_command_refuses(call, words, match):
    code, out, err = call(*words)
    assert code == 2
    assert re.search(match, err), err
    assert out == ""
    assert "Traceback" not in err
