"""A local stand-in for the Hugging Face hub, with one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

NAME = "someone/tiny-llava"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves the files of `folder` as revisions `main` and COMMIT of NAME. Files in `broken` stop half-way."""

    folder: Path
    url: str = ""
    broken: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(self.folder.iterdir()) if file.is_file()}

    def answer(self, path: str) -> tuple[dict[str, str], bytes] | None:
        """Headers and body for a path, or None if there is no such file."""
        path = path.partition("?")[0]
        files = self.files()
        if path in (f"/api/models/{NAME}", *(f"/api/models/{NAME}/revision/{rev}" for rev in ("main", COMMIT))):
            info = {"_id": "1", "id": NAME, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            return {}, json.dumps(info).encode()
        if path == f"/api/models/{NAME}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in files.items()
            ]
            return {}, json.dumps(entries).encode()
        content = files.get(path.removeprefix(f"/{NAME}/resolve/{COMMIT}/"))
        if content is None:
            return None
        return {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run the hub while the block lasts; set `HF_ENDPOINT` to `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send(with_body=False)

        def do_GET(self) -> None:
            self.send(with_body=True)

        def send(self, with_body: bool) -> None:
            found = hub.answer(self.path)
            if found is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            headers, body = found
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                file = self.path.rpartition("/")[2]
                if "/resolve/" in self.path:
                    hub.sent.append(file)
                self.wfile.write(body[: len(body) // 2] if file in hub.broken else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
