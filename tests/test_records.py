"""Records and reports: round trips, the laws of the reductions, and what is refused."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import math
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxslope.errors import InputError, ShapeError
from maxslope.findings import Example, Flag, Rate, wilson
from maxslope.records import COLUMNS, Records
from maxslope.reports import Report
from maxslope.reports.text import printable

HOSTILE = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "'x",
    'a,b\r\n"c"',
    "<script>alert(1)</script>",
    "\u202eabc",
    "😀",
    "\0",
    "",
    "|x|",
]
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAN = math.nan


def row(adversary="pgd", index=0, status="robust", **fields) -> dict:
    base = {"adversary": adversary, "index": index, "status": status, "label": 0, "clean_pred": 0}
    base |= {"clean_correct": True, "norm": "linf", "eps": 0.1}
    if status == "broken":
        base["distance"] = 0.1
    return base | fields


@st.composite
def rows(draw, random=False, errors=True, most=5):
    """A full table: every adversary at its budget on every sample."""
    n = draw(st.integers(1, most))
    correct = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    names = draw(st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True))
    out = []
    for name in names:
        norm = draw(st.sampled_from(["linf", "l2"]))
        eps = draw(st.sampled_from([0.05, 0.1, 0.2, NAN]))
        diagnosed = draw(st.booleans())
        for i in range(n):
            kinds = ["broken", *(["robust"] if correct[i] else []), *(["error"] if errors else [])]
            status = draw(st.sampled_from(kinds))
            distance = NAN
            if status == "broken":
                distance = draw(st.floats(0, 0.3 if math.isnan(eps) else eps)) if correct[i] else 0.0
            natural = 1.0 if status == "robust" else 0.0
            survived = draw(st.floats(0, 1)) if random and correct[i] else natural
            spent = {"forwards": draw(st.integers(0, 9)), "backwards": draw(st.integers(0, 9))}
            if diagnosed and correct[i]:
                spent |= {name: draw(st.floats()) for name in ("energy_drop", "relative_defect")}
                spent |= {"dissipation": draw(st.just(NAN) | st.floats(0))}
                spent |= {"flow_verdict": draw(st.sampled_from([*HOSTILE, "follows", "stuck"]))}
            out.append(
                row(name, i, status, norm=norm, eps=eps, distance=distance, clean_correct=correct[i], **spent)
                | {"label": i % 2, "clean_pred": i % 2 if correct[i] else 1 - i % 2, "survived": survived}
                | {"reason": draw(st.sampled_from(HOSTILE)), "energy": draw(st.floats())}
            )
    return out


def strict(text: str):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


# --- records ------------------------------------------------------------


@SETTINGS
@given(rows(random=True))
def test_round_trips(tmp_path_factory, table):
    records = Records.from_rows(table)
    path = tmp_path_factory.mktemp("csv") / "records.csv"
    records.to_csv(path)
    assert Records.from_csv(path) == records
    text = json.dumps(records.to_json_obj(), allow_nan=False)
    assert Records.from_json_obj(strict(text)) == records
    assert Records.from_rows(records.to_dicts()) == records
    assert pickle.loads(pickle.dumps(records)) == records


@SETTINGS
@given(st.text(), st.text(st.sampled_from("=+-@'\t\r\n\",;a"), max_size=5))
def test_text_survives_csv_and_starts_no_formula(tmp_path_factory, name, reason):
    records = Records.from_rows([row(name, reason=reason)])
    path = tmp_path_factory.mktemp("csv") / "r.csv"
    records.to_csv(path)
    assert Records.from_csv(path) == records
    with open(path, encoding="utf-8", newline="") as file:
        header, cells = csv.reader(file)
    text = [cells[header.index(k)] for k in ("adversary", "family", "norm", "status", "reason")]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in text)


def test_long_and_odd_text_survives_csv(tmp_path):
    records = Records.from_rows([row("x" * 200_000, reason="\ud800 lone \0")])
    records.to_csv(tmp_path / "r.csv")
    before = csv.field_size_limit()
    assert Records.from_csv(tmp_path / "r.csv") == records
    assert csv.field_size_limit() == before


@SETTINGS
@given(rows(), st.data())
def test_concat_select_sorted(table, data):
    records, n = Records.from_rows(table), len(table)
    i, j = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    a, b, c = (records.select(np.arange(*ends)) for ends in ((0, i), (i, j), (j, n)))
    assert (
        Records.concat([a, Records.concat([b, c])]) == Records.concat([Records.concat([a, b]), c]) == records
    )
    assert Records.concat([records, Records.empty()]) == records
    shuffled = records.select(np.array(data.draw(st.permutations(range(n))), dtype=int))
    assert shuffled.sorted() == records.sorted() == records.sorted().sorted()
    keys = [
        (d["adversary"], d["eps"] if d["eps"] == d["eps"] else math.inf, d["index"])
        for d in records.sorted().to_dicts()
    ]
    assert keys == sorted(keys)
    broken = records.select(status="broken")
    assert len(broken) + len(records.select(records.status != "broken")) == n
    assert set(broken.status) <= {"broken"}
    assert len(records.select(eps=NAN)) == np.isnan(records.eps).sum()
    first = table[0]["adversary"]
    assert records.select(records.index == 0, adversary=first).to_dicts()[0]["adversary"] == first


def test_columns_are_private_and_read_only():
    eps = np.array([0.1])
    records = Records.from_rows([row()])
    records = Records(**{k: getattr(records, k) for k in COLUMNS} | {"eps": eps})
    eps[0] = 9
    assert records.eps[0] == 0.1
    with pytest.raises(ValueError):
        records.eps[0] = 1


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([row(), row(index=1), row()], r"'pgd', eps 0.1, index 0 twice \(again in row 2\)"),
        ([row(eps=NAN), row(eps=NAN)], "eps nan, index 0 twice"),
        ([row(status="fine")], "status.*'fine'.*adversary 'pgd', index 0"),
        ([row(eps=-0.1)], "eps.*-0.1"),
        ([row(eps=math.inf)], "eps.*inf"),
        ([row(norm="")], "needs the name of its norm"),
        ([row(survived=1.5)], "survived.*1.5"),
        ([row(survived=NAN)], "survived.*nan"),
        ([row(status="broken", distance=NAN)], "distance.*finite"),
        ([row(status="broken", distance=-1.0)], "distance.*-1"),
        ([row(distance=0.1)], "only a broken sample has a distance"),
        ([row(clean_correct=False)], "wrong before the attack is not robust"),
        ([row(forwards=-1)], "forwards.*-1"),
        ([row(index=-1)], "index.*-1"),
        ([row(label=1.5)], "label needs integers; got 1.5"),
        ([row(clean_correct=1)], "clean_correct needs True or False; got 1"),
        ([row(eps="8/255")], "eps needs real numbers; got '8/255'"),
        ([row(adversary=3)], r"adversary\[0\] is 3: it has to be text"),
        ([row(backward=1)], "unknown field 'backward'; did you mean 'backwards'"),
        ([{"adversary": "pgd"}], "record 0 lacks 'index'"),
    ],
)
def test_refused(table, says):
    with pytest.raises(InputError, match=says):
        Records.from_rows(table)


def test_refused_shapes_columns_and_files(tmp_path):
    good = Records.from_rows([row()])
    columns = {k: getattr(good, k) for k in COLUMNS}
    with pytest.raises(ShapeError, match="same length"):
        Records(**columns | {"eps": np.array([0.1, 0.2])})
    with pytest.raises(ShapeError, match=r"eps has shape \(1, 1\)"):
        Records(**columns | {"eps": np.array([[0.1]])})
    with pytest.raises(ShapeError, match="mask"):
        good.select(np.array([True, False]))
    with pytest.raises(InputError, match="no column 'adversry'"):
        good.select(adversry="pgd")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="need exactly the columns"):
        Records.from_csv(tmp_path / "a.csv")
    good.to_csv(tmp_path / "b.csv")
    text = (tmp_path / "b.csv").read_text()
    (tmp_path / "b.csv").write_text(text.replace("true", "yes"))
    with pytest.raises(InputError, match="record 1 of the CSV: clean_correct is 'yes'"):
        Records.from_csv(tmp_path / "b.csv")
    (tmp_path / "b.csv").write_text(text.rstrip() + ",7\n")
    with pytest.raises(InputError, match="18 fields, not 17"):
        Records.from_csv(tmp_path / "b.csv")
    with pytest.raises(InputError, match="exactly the columns"):
        Records.from_json_obj({"eps": []})


# --- diagnoses ------------------------------------------------------------

OLD = (
    "adversary", "family", "norm", "eps", "index", "label", "clean_pred", "adv_pred", "clean_correct", "status",
    "reason", "distance", "energy", "forwards", "backwards", "survived", "clean_survived",
)  # fmt: skip
DIAGNOSED = {"energy_drop": 0.9, "dissipation": 1.0, "relative_defect": 0.1, "flow_verdict": "follows"}


def test_records_without_a_diagnosis_are_written_and_read_as_before(tmp_path):
    records = Records.from_rows([row(), row(index=1, status="broken")])
    table = records.to_json_obj()
    assert tuple(table) == OLD
    assert Records.from_json_obj(table) == records
    records.to_csv(tmp_path / "r.csv")
    assert next(csv.reader([(tmp_path / "r.csv").read_text().split("\n")[0]])) == list(OLD)
    again = Records.from_csv(tmp_path / "r.csv")
    assert again == records
    assert again.flow_verdict.tolist() == ["", ""]
    for name in list(DIAGNOSED)[:3]:
        assert np.isnan(getattr(again, name)).all()
    assert Report(records).followed() == []
    assert "flow" not in Report(records).table()


@pytest.mark.parametrize("name", DIAGNOSED)
def test_each_column_of_a_diagnosis_may_stand_alone(tmp_path, name):
    records = Records.from_rows([row() | {name: DIAGNOSED[name]}, row(index=1)])
    assert tuple(records.to_json_obj()) == (*OLD, name)
    assert Records.from_json_obj(strict(json.dumps(records.to_json_obj()))) == records
    records.to_csv(tmp_path / "r.csv")
    assert Records.from_csv(tmp_path / "r.csv") == records
    assert records != Records.from_rows([row(), row(index=1)])


def test_records_with_and_without_a_diagnosis_are_merged():
    with_one, without = Records.from_rows([row() | DIAGNOSED]), Records.from_rows([row(index=1)])
    both = Records.concat([without, with_one])
    assert both.flow_verdict.tolist() == ["", "follows"]
    assert both.select(index=0) == with_one
    assert both.select(index=1) == without
    assert Records.from_rows(both.to_dicts()) == both
    assert Report.merge([Report(without), Report(with_one)]).followed()[0].count == 1


def test_a_diagnosis_that_cannot_be_is_refused():
    for bad, says in [
        ({"dissipation": -1.0}, "dissipation.*>= 0"),
        ({"relative_defect": "a"}, "relative_defect needs real"),
        ({"flow_verdict": 3}, "has to be text"),
    ]:
        with pytest.raises(InputError, match=says):
            Records.from_rows([row() | bad])
    columns = {k: getattr(Records.from_rows([row()]), k) for k in OLD}
    with pytest.raises(ShapeError, match="same length"):
        Records(**columns, flow_verdict=["follows", "stuck"])


def test_followed_counts():
    """Against counts made by hand, with samples that were not diagnosed and defects that are none."""
    verdicts = ["follows"] * 6 + ["stuck"] * 2 + ["chatters", ""]
    defects = [0.01, -0.02, 0.03, 0.04, 0.05, 0.06, NAN, NAN, math.inf, 7.0]
    table = [
        row("a", i) | {"flow_verdict": v, "relative_defect": d}
        for i, (v, d) in enumerate(zip(verdicts, defects))
    ]
    table += [row("b", i) for i in range(10)]
    table += [row("c", 0) | {"flow_verdict": "stuck"}]
    report = Report(Records.from_rows(table))
    a, c = report.followed()
    assert list(a.verdicts) == ["follows", "chatters", "stuck"]
    assert (a.name, a.count, a.verdicts) == ("a", 9, {"follows": 6, "chatters": 1, "stuck": 2})
    assert a.median == 0.04
    assert a.high == math.inf
    assert (c.name, c.count, c.verdicts) == ("c", 1, {"follows": 0, "chatters": 0, "stuck": 1})
    assert math.isnan(c.median)
    text = " ".join(report.table().split())
    assert "adversary norm eps samples median defect 95 % below follows chatters stuck" in text
    assert "a linf 0.1 9 4 % > 1000 % 66.7 % 11.1 % 22.2 %" in text
    assert "c linf 0.1 1 – – – – 100 %" in text


# --- rates ------------------------------------------------------------


def test_wilson_against_scipy():
    from scipy.stats import binomtest, norm

    for level in (0.5, 0.95, 0.999):
        z = norm.ppf(0.5 + level / 2)
        for total in (1, 2, 7, 100, 12345):
            for count in sorted({0, 1, total // 3, total // 2, total - 1, total}):
                ours = wilson(count, total, z)
                low, high = binomtest(count, total).proportion_ci(level, method="wilson")
                assert ours == count / total
                assert ours.low == pytest.approx(low, abs=1e-12)
                assert ours.high == pytest.approx(high, abs=1e-12)
                assert 0 <= ours.low <= ours <= ours.high <= 1


def test_rate_is_a_float_that_travels():
    rate = wilson(3, 4)
    assert isinstance(rate, float)
    assert (rate.count, rate.total, f"{rate:.2f}", str(rate)) == (3, 4, "0.75", "0.750 [0.301, 0.954]")
    for other in (pickle.loads(pickle.dumps(rate)), copy.deepcopy(rate)):
        assert type(other) is Rate
        assert vars(other) == vars(rate)
    assert json.dumps(rate) == "0.75"


@pytest.mark.parametrize("bad", [(0, 0), (-1, 3), (4, 3), (NAN, 3), (1, 3, NAN), (1, -1)])
def test_wilson_refuses(bad):
    with pytest.raises(InputError):
        wilson(*bad)


# --- the reduction ------------------------------------------------------------


@SETTINGS
@given(rows(random=True))
def test_worst_case_laws(table):
    report = Report(Records.from_rows(table))
    for norm in {r["norm"] for r in table}:
        grid = sorted(
            {
                0.0,
                0.03,
                0.05,
                0.1,
                0.15,
                0.2,
                0.5,
                *(r["distance"] for r in table if r["distance"] == r["distance"]),
            }
        )
        values = [report.survival(norm, eps).sum() for eps in grid]
        assert all(a >= b for a, b in itertools.pairwise(values))
        assert values[0] <= report.clean_accuracy.count + 1e-12
        # the curve is the worst case, read off the distances
        curve = report.curve(norm)
        assert (np.diff(curve.eps) > 0).all()
        for eps, value, low, high in zip(*curve):
            assert value == pytest.approx(report.survival(norm, eps).sum() / report.n, abs=1e-12)
            assert low <= value <= high
    for run in report.runs:
        low, high = report.robust_interval(run.name)
        assert low == report.robust_accuracy[run.name] <= high
        if not math.isnan(run.eps):
            worst = report.worst_case[run.norm, run.eps]
            assert worst <= report.robust_accuracy[run.name]
            assert report.worst_case_interval(run.norm, run.eps)[1] >= worst
        else:
            assert report.survival(run.norm, math.inf).sum() <= report.robust_accuracy[run.name].count + 1e-12


@SETTINGS
@given(rows(errors=False))
def test_worst_case_by_counting(table):
    """Against the definition, one sample and one record at a time."""
    report = Report(Records.from_rows(table))
    for norm, eps in report.budgets:
        left = 0
        for i in range(report.n):
            mine = [r for r in table if r["index"] == i]
            hit = any(r["norm"] == norm and r["status"] == "broken" and r["distance"] <= eps for r in mine)
            left += mine[0]["clean_correct"] and not hit
        assert report.worst_case[norm, eps].count == left


@SETTINGS
@given(rows(errors=False))
def test_attribution_adds_up(table):
    report = Report(Records.from_rows(table))
    for norm, eps in report.budgets:
        parts = report.attribution(norm, eps)
        own = [r for r in table if r["adversary"] in parts and r["clean_correct"] and r["status"] == "broken"]
        together = {r["index"] for r in own if r["distance"] <= eps}
        assert sum(a.first for a in parts.values()) == len(together)
        assert all(a.only <= a.first <= a.broken for a in parts.values())
        counts = [sum(r["index"] == i and r["distance"] <= eps for r in own) for i in together]
        assert sum(a.only for a in parts.values()) == counts.count(1)


@SETTINGS
@given(rows(random=True), st.data())
def test_shards_merge_to_the_whole(table, data):
    flags = [Flag("a", "warning", "m", 1, (1,))]
    whole = Report(
        Records.from_rows(table), {"seed": 1, "adversaries": [r["adversary"] for r in table]}, flags
    )
    cut = data.draw(st.integers(0, 5))
    shards = []
    for part in (
        whole.records.select(whole.records.index < cut),
        whole.records.select(whole.records.index >= cut),
    ):
        shards.append(Report(part, whole.meta, flags))
    merged = Report.merge(shards)
    assert merged.records.sorted() == whole.records.sorted()
    assert merged.table().split("flags")[0] == whole.table().split("flags")[0]
    assert merged.flags == (Flag("a", "warning", "m", 2, (1,)),)
    assert merged.per_class() == whole.per_class()
    assert merged.cost() == whole.cost()


def test_merge_refuses_other_runs_and_adds_seconds():
    a = Report(Records.from_rows([row()]), {"seed": 0, "seconds": 1.5})
    b = Report(Records.from_rows([row(index=1)]), {"seed": 0, "seconds": 2})
    assert Report.merge([a, b]).meta == {"seed": 0, "seconds": 3.5}
    with pytest.raises(InputError, match="'seed' is 0 in one and 1 in the other"):
        Report.merge([a, Report(b.records, {"seed": 1})])
    with pytest.raises(InputError, match="twice"):
        Report.merge([a, a])
    with pytest.raises(InputError, match="at least one"):
        Report.merge([])


def test_success_at_small_eps_counts_at_larger_ones():
    table = [
        row("a", 0, "broken", eps=0.05, distance=0.05),
        row("b", 0, eps=0.2),
        row("a", 1, eps=0.05),
        row("b", 1, eps=0.2),
    ]
    report = Report(Records.from_rows(table))
    assert report.worst_case["linf", 0.2] == 0.5
    assert report.robust_accuracy["b"] == 1
    assert "1 broke only under adversaries of another budget" in report.table()


def test_errors_count_both_ways_and_are_flagged():
    table = [row(index=0), row(index=1, status="error", reason="NaN logits"), row(index=2, status="broken")]
    table.append(row(index=3, status="error", clean_correct=False, clean_pred=1))
    report = Report(Records.from_rows(table))
    assert [r.count for r in report.robust_interval("pgd")] == [1, 3]
    assert [r.count for r in report.worst_case_interval("linf", 0.1)] == [1, 3]
    (flag,) = report.all_flags
    assert (flag.name, flag.severity, flag.rows) == ("errors", "danger", (1, 3))
    assert "NaN logits" in report.table()
    mine = Flag("errors", "danger", "said better by the evaluation", 2, (1, 3))
    assert Report(report.records, flags=[mine]).all_flags == (mine,)


def test_records_raise_flags():
    far = Report(Records.from_rows([row(status="broken", distance=0.2), row("b")]))
    assert [f.name for f in far.all_flags] == ["over-budget"]
    short = Report(Records.from_rows([row(), row(index=1), row("b")]))
    assert [f.name for f in short.all_flags] == ["unequal-samples"]
    assert Report(Records.from_rows([row(status="broken"), row("b")])).all_flags == ()


def test_random_model_is_judged_by_what_survives():
    table = [
        row("a", 0, "broken", survived=0.8),
        row("b", 0, survived=0.9),
        row("a", 1),
        row("b", 1, survived=0.5),
    ]
    report = Report(Records.from_rows(table))
    assert report.robust_accuracy["a"] == 0.9
    assert report.worst_case["linf", 0.1] == (0.8 + 0.5) / 2


def test_cost_and_order():
    table = [
        row("b", 0, forwards=3, backwards=2),
        row("b", 1, "broken", distance=0.0, clean_correct=False, forwards=1),
        row("a", 0),
        row("a", 1, "broken", distance=0.0, clean_correct=False),
    ]
    cost = Report(Records.from_rows(table)).cost()["b"]
    assert cost == (1, 4, 2, 4.0, 2.0)
    assert [r.name for r in Report(Records.from_rows(table)).runs] == ["b", "a"]
    assert [r.name for r in Report(Records.from_rows(table), {"adversaries": ["a", "b"]}).runs] == ["a", "b"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([row(), row(eps=0.2)], "ran at several eps on the same samples"),
        ([row(), row(index=1, norm="l2")], "several of norm"),
        ([row(), row(index=1, family="other")], "several of family"),
        ([row(), row("b", label=1)], "disagree on label of sample 0"),
    ],
)
def test_report_refuses(table, says):
    with pytest.raises(InputError, match=says):
        Report(Records.from_rows(table))


def test_per_row_eps_is_one_adversary_without_budget():
    report = Report(Records.from_rows([row(eps=0.1), row(index=1, eps=0.2, status="broken")]))
    assert report.budgets == []
    assert report.robust_accuracy["pgd"] == 0.5
    assert report.curve("linf").value.tolist() == [1.0, 0.5]


def test_empty_report_never_says_nan():
    report = Report(Records.empty())
    for ask in (lambda: report.clean_accuracy, report.table, report.to_html, lambda: report.curve("linf")):
        with pytest.raises(InputError, match="no records"):
            ask()
    assert report.robust_accuracy == {}
    assert strict(report.to_json())["summary"] == {}


# --- saving ------------------------------------------------------------


def example(**fields) -> Example:
    base = {
        "index": 0,
        "label": 0,
        "clean_pred": 0,
        "adv_pred": 1,
        "adversary": "pgd",
        "eps": 0.1,
        "norm": "linf",
    }
    x = np.linspace(0, 1, 4, dtype=np.float32).reshape(1, 2, 2)
    base |= {"x": x, "x_adv": x + np.float32(0.1), "energies": [0.0, -1.5], "times": [0.0, 0.1]}
    return Example(**base | {"status": "broken"} | fields)


@SETTINGS
@given(rows(random=True))
def test_report_json_round_trip(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("json") / "r.json"
    odd = example(
        eps=NAN,
        energies=[NAN, math.inf, -math.inf],
        times=np.arange(3),
        x=np.array([NAN, 1]),
        x_adv=np.array([0.1, 1]),
    )
    meta = {"bounds": (0, np.float32(1)), "nan": NAN, "path": os.PathLike, "nested": {"a": [1, None, True]}}
    flags = [Flag("f", "info", "\ud800 </script>", 1, (3,))]
    report = Report(
        Records.from_rows(table),
        meta,
        flags,
        [example(), odd],
        [("t", "c", b"\x89PNG\r\n"), ("t", "c", object())],
    )
    text = report.to_json(path)
    strict(text)
    again = Report.from_json(path)
    assert again == report
    assert again.examples[0].x.dtype == np.float32
    assert again.figures == report.figures[:1]
    assert again.to_json().replace("\n", "") == text


def test_save_by_suffix(tmp_path):
    report = Report(
        Records.from_rows([row(), row("b", status="broken")]), {"model": "m"}, examples=[example()]
    )
    for suffix in ("html", "json", "csv", "md", "txt"):
        path = report.save(tmp_path / "new" / f"r.{suffix}")
        assert path.stat().st_size > 100
    assert Report.from_json(tmp_path / "new" / "r.json") == report
    assert Records.from_csv(tmp_path / "new" / "r.csv") == report.records
    assert (tmp_path / "new" / "r.txt").read_text() == report.table()
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".csv", ".html", ".json", ".md", ".txt"]
    with pytest.raises(InputError, match=r"r\.pdf.*use \.html"):
        report.save(tmp_path / "r.pdf")


def test_a_failed_write_leaves_the_old_file_and_no_stump(tmp_path, monkeypatch):
    report = Report(Records.from_rows([row()]))
    path = report.save(tmp_path / "r.json")
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Report(Records.from_rows([row("other")])).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"format": "maxslope report", "version": 1}', "<html>"])
def test_damaged_json_is_said(tmp_path, damage):
    path = tmp_path / "r.json"
    path.write_text(damage)
    with pytest.raises(InputError, match=r"r\.json"):
        Report.from_json(path)


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 100_000, "\x1b[31mred", "名前"])
def test_text_is_aligned_and_safe_for_terminals(name):
    report = Report(
        Records.from_rows([row(name), row("b", reason=name)]), {"model": name}, [Flag(name, "info", name)]
    )
    text = report.table()
    assert printable(text.replace("\n", ""), 10**6) == text.replace("\n", "")
    assert len(text) < 5000


def test_verdicts_are_safe_in_text(tmp_path):
    for verdict in [*filter(None, HOSTILE), "x" * 10**5, "\x1b[31mred"]:
        report = Report(Records.from_rows([row() | DIAGNOSED | {"flow_verdict": verdict}]))
        text = report.table()
        assert printable(text.replace("\n", ""), 10**6) == text.replace("\n", "")
        assert len(text) < 5000
    path = Report(Records.from_rows([row() | DIAGNOSED | {"flow_verdict": "<b>|*x*"}])).save(
        tmp_path / "r.md"
    )
    assert r"&lt;b&gt;\|\*x\* |" in path.read_text()
    assert "falls by exactly the integral" in path.read_text()


def test_markdown_escapes(tmp_path):
    path = Report(Records.from_rows([row("<script>|*x*")])).save(tmp_path / "r.md")
    assert r"| &lt;script&gt;\|\*x\* | linf | 0.1 |" in path.read_text()


def test_misclassified_are_shown_apart():
    table = [row(), row(index=5, status="broken", distance=0.0, clean_correct=False, clean_pred=1)]
    report = Report(Records.from_rows(table))
    assert report.attribution("linf", 0.1)["pgd"].broken == 0
    assert report.worst_case["linf", 0.1] == 0.5
    assert (
        "1 of 2 were wrong before the attack: not attacked, wrong at every eps (samples 5)" in report.table()
    )


def test_examples_are_checked():
    with pytest.raises(ShapeError, match="x is"):
        example(x=np.zeros(3))
    with pytest.raises(ShapeError, match="energies"):
        example(times=[0.0])
    with pytest.raises(InputError, match="severity 'bad'"):
        Flag("f", "bad", "m")


def test_names_that_differ_in_a_trailing_nul_are_told_apart():
    both = Records.from_rows([row(name) for name in ("", "\0")])
    for name in ("", "\0"):
        assert both.select(adversary=name).to_dicts()[0]["adversary"] == name
