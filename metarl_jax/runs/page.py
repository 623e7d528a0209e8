"""A page of HTML that holds all that it shows: text, tables and figures with their numbers as CSV, pictures.

Whatever comes from a run is escaped. Nothing is fetched or sent: plotly.js stands in the page, pictures and CSV are
data URIs, and the page's own policy forbids a browser every connection.
"""

import base64
import csv
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metarl_jax.envs.packages import package
from metarl_jax.options import ConfigError
from metarl_jax.runs import files, style

EXTRA, COMMAND = "report", "metarl report"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
PICTURES = {".gif": (b"GIF8", "image/gif"), ".png": (b"\x89PNG", "image/png")}


def graph_objects() -> Any:
    """plotly's figures.

    Raises: MissingPackage, one line that names the command that installs it.
    """
    return package("plotly.graph_objects", EXTRA, COMMAND)


def page(title: str, subtitle: str, sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The whole page; sections are (title, blocks), blocks are what the functions below return."""
    plotly_js = package("plotly.offline", EXTRA, COMMAND).get_plotlyjs()
    shown = [(name, [b for b in blocks if b]) for name, blocks in sections]
    shown = [(name, blocks) for name, blocks in shown if blocks]
    links = " ".join(f'<a href="#{slug(name)}">{escape(name)}</a>' for name, _ in shown)
    body = "\n".join(
        f'<section id="{slug(name)}">\n<h2>{escape(name)}</h2>\n' + "\n".join(blocks) + "\n</section>"
        for name, blocks in shown
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<script>{plotly_js}</script>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
<nav>{links}</nav>
</header>
<main>
{body}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def escape(value: Any) -> str:
    """Text of HTML."""
    return html.escape(str(value))


def slug(name: str) -> str:
    """A name for addresses and files: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"


# --- blocks ---------------------------------------------------------------------------------------------


def paragraph(text: str) -> str:
    """A paragraph; what stands between backticks is code."""
    parts = escape(text).split("`")
    return "<p>" + "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)) + "</p>"


def heading(text: str) -> str:
    """The title of a part of a section."""
    return f"<h3>{escape(text)}</h3>"


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one under the other."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{rows}</dl>"


def folded(summary: str, *blocks: str) -> str:
    """Blocks that a click opens."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(blocks)}</details>"


def table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, most: int = 200, saved: Any = None
) -> str:
    """A table of text and numbers in a box of its own, at most `most` rows of it, and all of it as CSV.

    Args: saved: (columns, rows) of the CSV where they are others than what is shown.
    """
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    mark = ' class="number"'
    head = "".join(f"<th{mark if n else ''}>{escape(c)}</th>" for c, n in zip(columns, numeric, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:most])
    more = f" ({len(rows) - most} more rows in the CSV)" if len(rows) > most else ""
    link = csv_link(name, *(saved or (columns, rows)))
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f'<figure class="table"><div class="box">{whole}</div>'
        f"<figcaption>{escape(name)}{more}. {link}</figcaption></figure>"
    )


def _cell(value: Any) -> str:
    if not _is_number(value):
        return f"<td>{escape('' if value is None else value)}</td>"
    return f'<td class="number">{escape(number(value))}</td>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: float | None) -> str:
    """A number as people read it; the CSV beside it has all digits."""
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def interval(low: float, high: float) -> str:
    """[low, high]."""
    return f"[{number(low)}, {number(high)}]"


def figure(
    name: str,
    made: Any,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    note: str = "",
    height: int | None = None,
) -> str:
    """A figure of plotly, a line on what it shows, and its numbers as CSV; its height in pixels, if not the usual."""
    size = f' style="height: {height}px"' if height else ""
    data = made.to_json().replace("</", "<\\/")  # plotly escapes it too
    return (
        f'<figure class="chart"><div class="plot" role="img" aria-label="{escape(name)}"{size}></div>'
        f'<script type="application/json">{data}</script>'
        f"<figcaption><b>{escape(name)}.</b> {escape(note)} {csv_link(name, columns, rows)}</figcaption></figure>"
    )


def csv_link(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A link that saves rows as CSV: numbers with all their digits, nothing where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if _is_nothing(x) else x for x in row] for row in rows])
    uri = "data:text/csv;charset=utf-8," + quote(text.getvalue(), safe=",:;.-_")
    return f'<a class="csv" download="{slug(name)}.csv" href="{uri}">CSV</a>'


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def picture(path: Path) -> str:
    """A GIF or PNG, inside the page.

    Raises: ConfigError for a file that cannot be read, or is none.
    """
    begins, kind = PICTURES[path.suffix]
    content = files.read_bytes(path, "picture")
    if not content.startswith(begins):
        raise ConfigError(f"picture {path}: is damaged (not a {path.suffix[1:].upper()})")
    data = base64.b64encode(content).decode()
    caption = path.stem.replace("_", " ")
    image = f'<img alt="{escape(caption)}" src="data:{kind};base64,{data}">'
    return f'<figure class="picture">{image}<figcaption>{escape(path.name)}</figcaption></figure>'


_STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; color: {style.INK}; background: #fff; font: 16px/1.5 system-ui, sans-serif; }}
header, main {{ max-width: 1100px; margin: 0 auto; padding: 0 16px; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: 24px 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid {style.GRID}; }}
h3 {{ font-size: 1.05rem; margin: 24px 0 8px; overflow-wrap: anywhere; }}
p {{ margin: 8px 0; max-width: 75ch; overflow-wrap: anywhere; }}
nav a {{ display: inline-block; margin: 4px 14px 4px 0; }}
a {{ color: {style.OTHERS[0]}; }}
code {{ background: #f3f3f3; padding: 1px 4px; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 2px 20px; margin: 8px 0; }}
dt {{ color: #666; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
figure {{ margin: 12px 0; min-width: 0; }}
figcaption {{ font-size: .875rem; color: #555; overflow-wrap: anywhere; }}
.box {{ overflow: auto; max-height: 70vh; }}
table {{ border-collapse: collapse; font-size: .875rem; }}
th, td {{ text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid {style.GRID}; white-space: nowrap; }}
th {{ position: sticky; top: 0; background: #fff; font-weight: 600; }}
td:first-child:not(.number) {{ white-space: normal; min-width: 8em; max-width: 22em; }}
th.number, td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.plot {{ width: 100%; height: 400px; }}
.small {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 8px 24px; }}
.small .plot {{ height: 280px; }}
.picture img {{ max-width: 100%; height: auto; }}
summary {{ cursor: pointer; color: {style.OTHERS[0]}; margin: 8px 0; }}
@media (max-width: 600px) {{
  dl {{ column-gap: 12px; }}
  .plot {{ height: 360px; }}
}}
"""

# Figures are drawn from the JSON beside them. A browser saves a long data URI only as a blob. plotly's own choice of
# buttons has one that sends the data to a server.
_SCRIPT = """
var options = {
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
document.querySelectorAll("figure.chart").forEach(function (f) {
  var made = JSON.parse(f.querySelector("script").textContent);
  Plotly.newPlot(f.querySelector(".plot"), made.data, made.layout, options);
});
document.querySelectorAll("a.csv").forEach(function (a) {
  a.addEventListener("click", function () {
    if (a.href.length < 1e6 || a.href.startsWith("blob:")) return;
    var text = decodeURIComponent(a.href.slice(a.href.indexOf(",") + 1));
    a.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  });
});
"""


def small(blocks: Sequence[str]) -> str:
    """Figures side by side where the screen is wide enough."""
    return f'<div class="small">{"".join(blocks)}</div>' if blocks else ""
