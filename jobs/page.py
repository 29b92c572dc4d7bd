"""The report's page: template, style, scripts and payload in one HTML file that needs no network and runs nothing else."""

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

TEMPLATE = files("jobs") / "report_template"
# In order of use: what a later file calls at load time stands in an earlier one.
SCRIPTS = (
    "page.js",
    "filter.js",
    "charts.js",
    "overview.js",
    "distributions.js",
    "classes.js",
    "gallery.js",
    "viewer.js",
    "main.js",
)


def render(payload: dict[str, Any]) -> str:
    """The page as one text. Its policy lets only these scripts and styles act, whatever a name in the payload holds."""
    style = _read("style.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_read(name) for name in SCRIPTS) + "})();\n"
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src 'self' data: file:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {
        "policy": policy,
        "title": html.escape(f"{payload['title']} · Ascribe"),
        "style": style,
        "script": script,
        "payload": embedded_json(payload),
    }
    page = _read("page.html")
    head, *rest = page.split("{{")
    pieces = [head]
    for part in rest:  # one pass: a name in the payload that looks like a placeholder stays text
        name, _, tail = part.partition("}}")
        pieces += [parts[name], tail]
    return "".join(pieces)


def embedded_json(payload: dict[str, Any]) -> str:
    """JSON that cannot end its script element: `<` and its kin only as escapes."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
