"""A real HTTP server on loopback that cuts, corrupts, refuses and misreports on request."""

import hashlib
import re
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET

BODY = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(20_000))  # 640,000 bytes


class Server(ThreadingHTTPServer):
    """Serves `body` at every path; `faults` are taken one a request, then it behaves."""

    daemon_threads = True

    def __init__(self, body=BODY, faults=(), ranges=True, etag='"1"', length=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.faults, self.ranges = body, list(faults), ranges
        self.etag, self.length, self.seen = etag, length, []

    def handle_error(self, *_):
        pass  # a client that hangs up is what some tests are about

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        """Tell the length, or the state of the next fault; `seen` counts what is downloaded."""
        fault = self.server.faults.pop(0) if self.server.faults else {}
        self.send_response(fault.get("status", 200))
        if self.server.length:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()

    def do_GET(self):
        server = self.server
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.seen.append(asked)
        fault = server.faults.pop(0) if server.faults else {}
        body = fault.get("body", server.body)
        if "status" in fault:
            self.send_response(fault["status"])
            for name, value in fault.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if asked and server.ranges and condition in (None, server.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(body) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            shift = fault.get("shift", 0)
            self.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Type", fault.get("type", "application/octet-stream"))
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        data = bytearray(body[start:])
        if "flip" in fault:
            data[fault["flip"] - start] ^= 1
        if "cut" in fault:
            data = data[: fault["cut"]]
        self.wfile.write(data)
        if fault.get("reset"):  # close with a reset instead of a clean end
            self.wfile.flush()
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        if "cut" in fault:
            self.close_connection = True


@contextmanager
def servers():
    """A function that starts a Server; all are stopped at the end."""
    running = []

    def start(**options):
        server = Server(**options)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
