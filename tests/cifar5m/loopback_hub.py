"""A small Hugging Face Hub on loopback: the endpoints that huggingface_hub uses to publish a
dataset and to fetch one, with uploads by xet and by plain LFS, and failures on request.

    with hub_of_this_process(tmp_path) as hub:
        hub.faults.append(Fault("PUT", "/lfs/", status=503))
        ...  # huggingface_hub takes it for the Hub, and is in no hurry to retry

    with hub_server() as hub:
        ...  # processes with HF_ENDPOINT=hub.url and HF_TOKEN=TOKEN, or start_publishing
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

import tests.cifar5m.loopback_xet as xet
from tests.processes import Forked

TOKEN = "hf_loopback"
LFS = (".tar", ".npz", ".parquet", ".npy")


@dataclass
class Fault:
    """What happens to the first `times` requests of a method whose path holds `path`.

    `status` answers so; "cut" closes the connection after half of what was sent was read; "lost"
    does what was asked, then closes without an answer; "hold" waits until `release` is set.
    """

    method: str
    path: str
    status: int | None = None
    kind: str = "status"
    times: int = 1
    after: int = 0  # requests that pass before
    headers: dict = field(default_factory=dict)
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class Repo:
    private: bool = False
    commits: list = field(default_factory=lambda: [{".gitattributes": (b"", False)}])
    messages: list = field(default_factory=lambda: ["initial commit"])

    @property
    def head(self):
        return self.commits[-1]

    @property
    def sha(self):
        return f"{len(self.commits):040x}"


class Hub(ThreadingHTTPServer):
    """`repos` by name, `objects` of LFS by sha256, `seen` every request as (method, path)."""

    daemon_threads = True

    def __init__(self, readers=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.objects, self.seen, self.faults = {}, {}, [], []
        self.xorbs = {}
        self.readers = set(readers)  # repositories that the token may not write to
        self.lock = threading.Lock()

    def handle_error(self, *_):
        pass  # clients that are killed are what some tests are about

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def content(self, name):
        """Path to bytes of what a repository holds now."""
        head = self.repos[name].head
        return {path: self.objects[data] if lfs else data for path, (data, lfs) in head.items()}

    def next_fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.path in path and fault.times:
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def handle_any(self):
        self.path = unquote(self.path)
        self.server.seen.append((self.command, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.server.next_fault(self.command, self.path)
        if fault and fault.kind == "cut":
            self.rfile.read(length // 2)
            self.connection.close()
            return
        self.body = self.rfile.read(length)
        if fault and fault.kind == "hold":
            fault.reached.set()
            fault.release.wait(60)
            return
        if fault and fault.kind == "status":
            self.answer(fault.status, headers=fault.headers)
            return
        self.silent = bool(fault and fault.kind == "lost")
        self.route()

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def answer(self, status, value=None, headers=None, data=None):
        if getattr(self, "silent", False):
            self.close_connection = True
            return
        data = json.dumps(value if value is not None else {}).encode() if data is None else data
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self):
        path = urlsplit(self.path).path
        if path.startswith("/lfs/"):
            self.store(path.removeprefix("/lfs/"))
            return
        token = xet.TOKEN if path.startswith("/cas/") else TOKEN
        if self.headers.get("Authorization") not in (None, f"Bearer {token}"):
            message = "Invalid credentials in Authorization header"
            self.answer(401, {"error": message}, {"X-Error-Message": message})
            return
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in (self.command, "*"):
                action(self, *match.groups())
                return
        self.answer(404, headers={"X-Error-Message": f"no such endpoint: {path}"})

    def repo(self, name, write=False):
        """The repository, or None after an answer."""
        repo = self.server.repos.get(name)
        token = self.headers.get("Authorization") is not None
        if repo is None or (repo.private and not token):
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self.answer(404 if token else 401, headers=headers)
            return None
        if write and (name in self.server.readers or not token):
            self.answer(403, {"error": "Forbidden"}, {"X-Error-Message": "no write access"})
            return None
        return repo

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name.split("/")[0] != "me":
            self.answer(403, {"error": "no rights"}, {"X-Error-Message": "no rights"})
        elif name in self.server.repos:
            self.answer(409, {"url": f"{self.server.url}/datasets/{name}"})
        else:
            private = asked.get("visibility") == "private" or asked.get("private", False)
            self.server.repos[name] = Repo(private)
            self.answer(200, {"url": f"{self.server.url}/datasets/{name}"})

    def info(self, name, revision=None):
        repo = self.repo(name)
        if repo and revision not in (None, "main", repo.sha):
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        elif repo:
            files = [{"rfilename": path} for path in repo.head]
            facts = {"private": repo.private, "siblings": files, "tags": [], "downloads": 0}
            self.answer(200, {"id": name, "sha": repo.sha, **facts})

    def tree(self, name, revision):
        if repo := self.repo(name):
            self.answer(200, [self.entry(path, *file) for path, file in repo.head.items()])

    def entry(self, path, data, lfs):
        found = {"type": "file", "path": path, "oid": git_hash(data if not lfs else b"pointer")}
        if not lfs:
            return found | {"size": len(data)}
        size = len(self.server.objects[data])
        return found | {"size": size, "lfs": {"oid": data, "size": size, "pointerSize": 134}}

    def validate_yaml(self):
        import yaml

        content = json.loads(self.body)["content"]
        head = yaml.safe_load(content.split("---")[1])
        errors = [] if head.get("license") else [{"message": "no license"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, name, revision):
        if not (repo := self.repo(name, write=True)):
            return
        files = []
        for asked in json.loads(self.body)["files"]:
            data, lfs = repo.head.get(asked["path"], (None, False))
            mode = "lfs" if asked["path"].endswith(LFS) else "regular"
            oid = None if data is None else data if lfs else git_hash(data)
            files.append(
                {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self.answer(200, {"files": files})

    def lfs_batch(self, name):
        if not self.repo(name, write=True):
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            if asked["oid"] not in self.server.objects:
                asked["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"}}
            objects.append(asked)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.answer(400, {"error": "not these bytes"})
            return
        self.server.objects[oid] = self.body
        self.answer(200)

    def commit(self, name, revision):
        if not (repo := self.repo(name, write=True)):
            return
        files, message = dict(repo.head), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif value["oid"] in self.server.objects:
                files[value["path"]] = (value["oid"], True)
            else:
                self.answer(400, headers={"X-Error-Message": f"{value['path']} was not uploaded"})
                return
        repo.commits.append(files)
        repo.messages.append(message)
        url = f"{self.server.url}/datasets/{name}/commit/{repo.sha}"
        self.answer(200, {"commitUrl": url, "commitOid": repo.sha})

    def resolve(self, name, revision, path):
        if not (repo := self.repo(name)):
            return
        headers = {"X-Repo-Commit": repo.sha}
        if path not in repo.head:
            self.answer(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
            return
        data, lfs = repo.head[path]
        etag = data if lfs else git_hash(data)
        content = self.server.objects[data] if lfs else data
        self.answer(200, data=content, headers=headers | {"ETag": f'"{etag}"'})


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", f"/api/datasets/{NAME}", Handler.info),
    ("GET", f"/api/datasets/{NAME}/revision/(.+)", Handler.info),
    ("GET", f"/api/datasets/{NAME}/tree/([^/]+)", Handler.tree),
    ("POST", f"/api/datasets/{NAME}/preupload/(.+)", Handler.preupload),
    ("POST", f"/datasets/{NAME}.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("POST", f"/api/datasets/{NAME}/commit/(.+)", Handler.commit),
    ("GET", f"/api/datasets/{NAME}/xet-write-token/(.+)", xet.write_token),
    ("POST", r"/cas/v1/xorbs/default/(\w+)", xet.store_xorb),
    ("POST", "/cas/v1/shards", xet.store_shard),
    ("GET", f"/datasets/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("HEAD", f"/datasets/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),  # of models
    ("HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)


def published(hub) -> dict[str, bytes]:
    """What was published as me/set, without the Hub's own file."""
    found = hub.content("me/set")
    del found[".gitattributes"]
    return found


@contextmanager
def hub_server(**options):
    server = Hub(**options)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    for fault in server.faults:
        fault.release.set()
    server.shutdown()
    server.server_close()


@contextmanager
def hub_of_this_process(home):
    """A Hub for the client in this process, whose caches lie in `home`."""
    with hub_server() as server, pytest.MonkeyPatch.context() as patch:
        changes = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub-cache"),
            "HF_TOKEN_PATH": str(home / "token"),
            "AGENT_HARNESSES_PATH": home / "harnesses.json",
        }
        for name, value in changes.items():
            patch.setattr(f"huggingface_hub.constants.{name}", value)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr("time.sleep", lambda seconds: None)
        yield server


def start_publishing(folder, hub, home, *options, xet: bool) -> Forked:
    """cifar5m-publish in a process of its own, which waits a hundredth of the time between its
    attempts.
    """
    arguments = [str(folder), "--repo", "me/set", "--workers", "1", "--quiet", *options]
    changes = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_CACHE": f"{home}/hub",
        "HF_XET_CACHE": f"{home}/xet",
        "HF_TOKEN_PATH": f"{home}/token",
    }
    variables = {
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
    }
    return Forked(_publish, changes, arguments, **variables)


def _publish(changes: dict, arguments: list[str]) -> None:
    """huggingface_hub has read the environment before this process was forked."""
    import huggingface_hub.constants

    from cifar5m.commands.publish import main

    for name, value in changes.items():
        setattr(huggingface_hub.constants, name, value)
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / 100)
    sys.exit(main(arguments))
