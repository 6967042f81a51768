"""A self-contained HTML page from a template: its policy, its scripts, and its charts as data."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from maxslope.errors import InputError, MissingExtraError
from maxslope.findings import Rate
from maxslope.reports.charts import Plot, norm_name, percent
from maxslope.reports.following import share
from maxslope.reports.images import png_uri
from maxslope.reports.text import number, samples

# The only two scripts the policy lets run: bokeh, and these lines. What the page shows reaches them as data.
BOOT = """
for (const item of JSON.parse(document.getElementById("charts").textContent)) {
  Bokeh.embed.embed_item(item, item.target_id)
}
"""
MARKER_PATHS = {
    "circle": "M26 8a4 4 0 1 1-8 0a4 4 0 1 1 8 0z",
    "square": "M18.5 4.5h7v7h-7z",
    "triangle": "M22 3.5l4.5 8h-9z",
    "diamond": "M22 3l4 5l-4 5l-4-5z",
    "inverted_triangle": "M22 12.5l4.5-8h-9z",
    "hex": "M22 3.5l4 2.25v4.5l-4 2.25l-4-2.25v-4.5z",
}


def render(template: str, items: list[dict], **values: Any) -> str:
    """A page whose policy lets nothing load, and two scripts run by their hash; no code is made from text.

    Styles made by bokeh are allowed, style attributes are not. Everything in `values` is escaped.

    Args:
        template: a file beside this one.
        items: what bokeh draws, see `charted`.

    Raises:
        MissingExtraError: jinja2 or bokeh is not installed.
    """
    try:
        import jinja2
        from bokeh.resources import Resources
    except ImportError as error:
        raise MissingExtraError(
            f"the report page needs {error.name}, which is not installed: pip install 'maxslope[plots]'"
        ) from error
    scripts = []
    if items:
        bokeh = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
        scripts = ["\n".join(bokeh), BOOT]
        if any("</script" in s.lower() or "\r" in s or "\0" in s for s in scripts):
            raise InputError("this version of bokeh cannot be put inside a page; another one is needed")
    hashes = " ".join(f"'sha256-{_sha256(s)}'" for s in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; style-src-attr 'none'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    env = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_source),
    )
    env.filters |= {
        "percent": percent,
        "share": share,
        "number": number,
        "interval": _interval,
        "norm": norm_name,
        "far": _far,
    }
    env.globals |= {"samples": samples, "marker_paths": MARKER_PATHS}
    # "<" as an escape: the data cannot close its own script element
    data = json.dumps(items, allow_nan=False).replace("<", "\\u003c")
    return env.get_template(template).render(policy=policy, data=data, scripts=scripts, **values)


def charted(plot: Plot, name: str, items: list[dict], *, foreign: bool = False) -> dict[str, Any]:
    """A chart for a template; what bokeh needs to draw it is appended to `items`.

    Args:
        foreign: given by the caller; it may have a fixed width, and scrolls in its own box.

    Raises:
        InputError: it is neither a bokeh figure nor the bytes of a PNG.
    """
    chart: dict[str, Any] = {"id": name, "plot": plot, "picture": None, "foreign": foreign}
    if isinstance(plot.figure, bytes):
        if not plot.figure.startswith(b"\x89PNG\r\n"):
            raise InputError(f"report figure {plot.title!r:.80} is neither a bokeh figure nor PNG bytes")
        return chart | {"picture": png_uri(plot.figure)}
    from bokeh.embed import json_item
    from bokeh.model import Model

    if not isinstance(plot.figure, Model):
        raise InputError(
            f"report figure {plot.title!r:.80} is a {type(plot.figure).__name__}; "
            "give a bokeh figure or PNG bytes"
        )
    items.append(dict(json_item(plot.figure, name)))  # type: ignore[arg-type]
    return chart


def _source(name: str) -> str:
    return resources.files("maxslope.reports").joinpath(name).read_text("utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _far(distance: float) -> str:
    """A distance for people: infinite is more than anybody found.

    >>> _far(0.12345), _far(float("inf"))
    ('0.123', '∞')
    """
    return "∞" if distance == float("inf") else f"{distance:.3g}"


def _interval(rate: Rate) -> str:
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}\u00a0%"
