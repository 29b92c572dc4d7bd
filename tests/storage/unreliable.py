"""A proxy before moto's server, and one that makes of it an S3 that fails as real ones do."""

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target = ""

    def log_message(self, *arguments):
        pass

    def do(self):
        return self.answer(*self.forwarded())

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = lambda self: self.do()

    def forwarded(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {"Content-Type": "application/octet-stream"}  # without one urllib calls a body a form
        headers |= {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(self.target + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Unreliable(Proxy):
    """Answers 500 or 503, or hangs up, before or after carrying the request out."""

    count = 0

    def do(self):
        cls = type(self)
        cls.count += 1
        fault = {3: "500", 5: "503", 7: "lost answer", 11: "hang up"}.get(cls.count % 13)
        if fault == "hang up":
            self.close_connection = True
            return None
        if fault in ("500", "503"):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return self.answer(int(fault), b"<Error><Code>InternalError</Code></Error>", {})
        done = self.forwarded()
        if fault == "lost answer":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>", {})
        return self.answer(*done)


@contextmanager
def before(s3: str, handler: type[Proxy]) -> Iterator[str]:
    """The address of a proxy before the server at `s3`."""
    handler.target = s3
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
