"""Shards of tiny images, and a web server on loopback that cuts, refuses and limits on request."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from worlds.formats.shards import encode_png, write_tar

SIZE = 8


def write_shards(folder, counts):
    """Write tars of images that carry their own number; return the number of samples."""
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for shard, count in enumerate(counts):
        rows = [(i, encode_png(numbered(i)), i % 10) for i in range(start, start + count)]
        with (folder / f"{shard:05d}.tar").open("wb") as stream:
            write_tar(stream, rows, "png")
        start += count
    return start


def numbered(i):
    """An image whose pixels say `i`."""
    return np.broadcast_to(np.array([i % 256, i // 256, 0], np.uint8), (SIZE, SIZE, 3)).copy()


def numbers(images):
    """The numbers of images in [-1, 1], (B, 3, H, W)."""
    red, green, _ = ((images[:, :, 0, 0].double() * 255 + 255) / 2).round().long().unbind(1)
    return (red + 256 * green).tolist()


class ShardServer(ThreadingHTTPServer):
    """Serves a folder. Every `cut`-th answer ends half-way; `refuse` holds answers by file name."""

    daemon_threads = True

    def __init__(self, folder, cut=None, ranges=True, refuse=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.cut, self.ranges = folder, cut, ranges
        self.refuse, self.seen, self.answers = dict(refuse or {}), [], 0

    def handle_error(self, *_):
        pass  # a client that hangs up is what some tests are about

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, name = self.server, self.path.strip("/")
        server.seen.append((name, self.headers.get("Range")))
        refusals = server.refuse.get(name, [])
        if refusals:
            status, headers = refusals.pop(0) if len(refusals) > 1 else refusals[0]
            if status:
                self.head(status, 0, headers)
                return
        body = (server.folder / name).read_bytes()
        asked = self.headers.get("Range") if server.ranges else None
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        self.head(206 if asked else 200, len(body) - start, {"ETag": '"1"'})
        server.answers += 1
        part = body[start:]
        if server.cut and server.answers % server.cut == 0:
            part, self.close_connection = part[: len(part) // 2], True
        self.wfile.write(part)

    def head(self, status, length, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


@contextmanager
def shard_server(folder, **options):
    server = ShardServer(folder, **options)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
