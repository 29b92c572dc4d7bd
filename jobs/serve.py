"""`serve`: the report's page over HTTP on this machine, its pictures drawn from the maps when looked at, SQL in its filter box.

Read-only and for one person: it listens on 127.0.0.1, answers GET, and refuses other hosts' names, so that a web page
elsewhere cannot read it through a name that points here.
"""

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from PIL import Image

from attribution.visualization import colours, enlarge, full_colour, is_one_sided, normalise, overlay, plane
from jobs.kept import kept
from jobs.page import render
from jobs.payload import payload
from jobs.scales import shared_scales
from jobs.survey import Survey
from jobs.thumbnails import LARGE, SMALL, class_strip, strip
from jobs.views import View
from storage.errors import StoreError
from storage.run import Run

HOST = "127.0.0.1"

logger = logging.getLogger(__name__)


class NotThereError(LookupError):
    """No such page, image or method."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """What is shown of a run, drawn when asked for."""

    view: View
    _page: dict[frozenset[int], str] = field(default_factory=dict)
    _surveys: list[tuple[Survey, pa.Table]] = field(default_factory=list)  # the one that the page shows
    _lock: Lock = field(default_factory=Lock)

    def page(self) -> str:
        """Drawn again when more of the run is done."""
        with self._lock:
            done = self.view.run.committed()
            if done not in self._page:
                self._page.clear()
                self._surveys[:] = [kept(self.view)]
                self._page[done] = render(payload(self.view, *self._surveys[0], "serve"))
            return self._page[done]

    def means(self, name: str) -> bytes:
        """The mean maps of a class, as an earlier report found them."""
        kind = name.removesuffix(".jpg")
        means = self._surveys[0][0].means_of(int(kind), self.view) if self._surveys and kind.isdecimal() else []
        if all(mean is None for mean in means):
            raise NotThereError(f"no mean map of class {kind}")
        return class_strip(means, SMALL)

    def select(self, where: str, group: str) -> list[int]:
        """Images whose summary row of a method satisfies a SQL condition, in the sandbox of `query`."""
        expression = next((spec.expression for spec in self.view.run.arrays if spec.group == group), None)
        if expression is None:
            raise NotThereError(f"no method {group!r}")
        literal = expression.replace("'", "''")
        # Runs in the sandbox of `query`. The condition ends with its line, so that a comment in it cannot swallow the bracket.
        table = self.view.run.sql(
            f"select distinct image from summary where method = '{literal}' and (\n{where}\n) order by image"  # noqa: S608  # SQL is what was asked for
        )
        return [int(image) for image in table["image"].to_pylist()]

    def row(self, name: str, ending: str) -> int:
        """The row number in a file name."""
        number = name.removesuffix(ending)
        if not (name.endswith(ending) and number.isdecimal() and int(number) < self.view.run.image_count):
            raise NotThereError(f"no image {name}: rows are 0 to {self.view.run.image_count - 1}")
        return int(number)

    def original(self, row: int) -> bytes:
        return _png(self.view.photographs([row])[0])

    def map(self, group: str, row: int, *, shared: bool, bare: bool) -> bytes:
        """The overlay at the photograph's resolution, or the heat map alone."""
        if group not in {spec.group for spec in self.view.pictured}:
            raise NotThereError(f"no maps of {group!r}")
        values = plane(self.view.run.attributions(group)[row])
        full = self._map_scales[group] if shared else full_colour(values)
        photograph = self.view.photographs([row])[0]
        if not bare:
            return _png(overlay(photograph, values, full))
        shown = normalise(enlarge(values, photograph.shape[:2]), scale=full)
        return _png(colours(shown, one_sided=is_one_sided(values))[:, :, :3])

    def strip(self, row: int) -> bytes:
        """As the static report has it, with its cells at the shared scale."""
        planes = [self.view.planes(spec.group, [row])[0] for spec in self.view.pictured]
        scales = [self._strip_scales[spec.group] for spec in self.view.pictured]
        return strip(self.view.photographs([row])[0], planes, scales, LARGE)

    @cached_property
    def _map_scales(self) -> dict[str, float]:
        return shared_scales(self.view)

    @cached_property
    def _strip_scales(self) -> dict[str, float]:
        return shared_scales(self.view, LARGE)


def answer(gallery: Gallery, path: str, asked: Mapping[str, str]) -> tuple[str, bytes]:
    """Kind and content of what lies at a path."""
    match path.removeprefix("/").split("/"):
        case [""]:
            return "text/html; charset=utf-8", gallery.page().encode()
        case ["select"]:
            return "application/json", _json({"images": gallery.select(asked["where"], asked["method"])})
        case ["strip", name]:
            return "image/jpeg", gallery.strip(gallery.row(name, ".jpg"))
        case ["thumbs", "class", name]:
            return "image/jpeg", gallery.means(name)
        case ["original", name]:
            return "image/png", gallery.original(gallery.row(name, ".png"))
        case ["map", group, name]:
            shared, bare = asked.get("scale") == "shared", asked.get("style") == "heat"
            return "image/png", gallery.map(unquote(group), gallery.row(name, ".png"), shared=shared, bare=bare)
    raise NotThereError(f"nothing at {path}")


def make_server(run: Run, port: int = 0) -> ThreadingHTTPServer:
    """A server bound to this machine and not yet running; port 0 takes a free one."""
    gallery = Gallery(View(run))

    class Handler(BaseHTTPRequestHandler):
        server_version = "ascribe"
        sys_version = ""

        def do_GET(self) -> None:  # the standard library's name
            if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in {HOST, "localhost"}:
                return self._refuse(HTTPStatus.FORBIDDEN, f"this report is served on {HOST} only")
            address = urlsplit(self.path)
            asked = {name: values[-1] for name, values in parse_qs(address.query).items()}
            try:
                kind, content = answer(gallery, address.path, asked)
            except NotThereError as error:
                return self._refuse(HTTPStatus.NOT_FOUND, str(error))
            except KeyError as error:
                return self._refuse(HTTPStatus.BAD_REQUEST, f"the query lacks {error.args[0]}")
            except StoreError as error:
                return self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return self._send(HTTPStatus.OK, kind, content)

        def _refuse(self, status: HTTPStatus, reason: str) -> None:
            self._send(status, "application/json", _json({"error": reason}))

        def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header(
                "Cache-Control", "max-age=3600" if kind.startswith("image/") and status == HTTPStatus.OK else "no-store"
            )
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the standard library's name
            logger.debug(format, *args)

    server = ThreadingHTTPServer((HOST, port), Handler)
    server.daemon_threads = True
    return server


def address_of(server: ThreadingHTTPServer) -> str:
    return f"http://{HOST}:{server.server_address[1]}/"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _png(pixels: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()
