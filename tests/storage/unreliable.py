"""An S3 that fails as real ones do: a proxy before moto's server."""

import http.server
import urllib.error
import urllib.request


class Unreliable(http.server.BaseHTTPRequestHandler):
    """A proxy before moto's server that answers 500 or 503, or hangs up, before or after carrying the request out."""

    protocol_version = "HTTP/1.1"
    target = ""
    count = 0

    def log_message(self, *arguments):
        pass

    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cls = type(self)
        cls.count += 1
        fault = {3: "500", 5: "503", 7: "lost answer", 11: "hang up"}.get(cls.count % 13)
        if fault in ("500", "503"):
            return self.answer(int(fault), b"<Error><Code>InternalError</Code></Error>", {})
        if fault == "hang up":
            self.close_connection = True
            return None
        headers = {"Content-Type": "application/octet-stream"}  # without one urllib calls a body a form
        headers |= {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(self.target + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                status, content, answered = response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            status, content, answered = error.code, error.read(), error.headers
        if fault == "lost answer":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>", {})
        return self.answer(status, content, answered)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

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
