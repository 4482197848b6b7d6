"""A local OpenAI-compatible endpoint that fails on demand."""

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

KEY = "sk-a-very-secret-key-0123456789"
REPLY = '{"thoughts": "up it goes", "action": "up"}'


def completion(content: Any = REPLY, finish: str = "stop", usage: Any = (100, 10), **message: Any) -> dict[str, Any]:
    """The body of a valid response."""
    return {
        "id": "made-up",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if usage else None,
    }


class Endpoint:
    """Records all requests, and fails as planned.

    Args:
        plan: a fault for each of the first requests, or None for a normal answer; later answers are all normal.
            A fault is an HTTP status (429 with Retry-After `retry_after`), `hang`, `reset`, another word, which is sent
            as the body, or a body to encode.
        say: makes the body of a normal answer from the body of the request.
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
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.lock = Lock()
        self.over = Event()
        self.url = ""

    def fault(self, body: dict[str, Any], key: str | None) -> Any:
        """Record a request and return its fault."""
        with self.lock:
            self.asked.append(body)
            self.times.append(monotonic())
            self.keys.append(key)
            return self.plan.pop(0) if self.plan else None


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Run the endpoint inside the block, at the address `endpoint.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Send head and body in one packet. A second packet would wait 40 ms until the first is acknowledged.
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.under_way += 1
                endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
            try:
                endpoint.headers.append(dict(self.headers))
                self.answer(body, endpoint.fault(body, self.headers["Authorization"]))
            finally:
                with endpoint.lock:
                    endpoint.under_way -= 1

        def answer(self, body: dict[str, Any], fault: Any) -> None:
            if fault == "hang":
                endpoint.over.wait(30)
                self.close_connection = True
            elif fault == "reset":
                # With a linger time of 0, closing the socket sends a reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            elif isinstance(fault, str):
                self.send(200, fault)
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
            """Ignore clients that were killed."""

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
