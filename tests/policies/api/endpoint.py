"""An OpenAI-compatible endpoint on this machine that misbehaves on demand."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

REPLY = '{"thoughts": "up it goes", "action": "up"}'


def completion(content: Any = REPLY, finish: str = "stop", usage: Any = (100, 10), **message: Any) -> dict[str, Any]:
    """The body of a good response."""
    return {
        "id": "made-up",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if usage else None,
    }


class Endpoint:
    """What it was asked, in order, and what it will do: `plan` names a fault for each coming request, then all is well.

    Faults: an HTTP status (429 with Retry-After `retry_after`), `hang`, `reset`, `broken_json`, or a body to send.
    """

    def __init__(self, *plan: Any, say: Callable[[Mapping[str, Any]], Any] | None = None) -> None:
        self.plan = list(plan)
        self.say = say or (lambda body: completion())
        self.retry_after = "0.4"
        self.error: dict[str, Any] = {"error": {"message": "made up", "code": "made_up"}}
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.lock = Lock()
        self.over = Event()
        self.url = ""

    def fault(self, body: dict[str, Any], key: str | None) -> Any:
        """Note a request, and what to do with it."""
        with self.lock:
            self.asked.append(body)
            self.times.append(monotonic())
            self.keys.append(key)
            return self.plan.pop(0) if self.plan else None


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Run the endpoint while the block lasts; its address is `endpoint.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: in two, the second waits 40 ms for the first to be acknowledged.
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.under_way += 1
                endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
            try:
                self.answer(body, endpoint.fault(body, self.headers["Authorization"]))
            finally:
                with endpoint.lock:
                    endpoint.under_way -= 1

        def answer(self, body: dict[str, Any], fault: Any) -> None:
            if fault == "hang":
                endpoint.over.wait(30)
                self.close_connection = True
            elif fault == "reset":
                # Lingering for no time makes the close a reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            elif fault == "broken_json":
                self.send(200, '{"choices": [{"index": 0, "mess')
            elif isinstance(fault, int):
                self.send(fault, json.dumps(endpoint.error))
            else:
                self.send(200, json.dumps(endpoint.say(body) if fault is None else fault))
                with endpoint.lock:
                    endpoint.answered.append(body)

        def send(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", endpoint.retry_after)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that was killed is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
