"""The load generator on a real server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks import load


class _Recorder(ThreadingHTTPServer):
    """Remembers bodies; refuses while `refusing` is not nought."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refusing = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Recorder

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(json.loads(data))
        time.sleep(0.005)
        status = 503 if self.server.refusing > 0 else 200
        self.server.refusing -= 1
        self.send_response(status)
        self.send_header("content-length", "2")
        self.send_header("retry-after", "0.01")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[_Recorder]:
    with _Recorder() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


GIVEN = {"words": ["red", "blue", "green", "dress", "hat"], "query_words": 12, "seed": 1}


def test_all_answers_are_counted_and_no_query_comes_twice(recorder: _Recorder) -> None:
    found = load.run(recorder.address, "search", 3, 0.4, **GIVEN)
    assert found["failed"] == {}
    assert found["requests"] == found["ms"]["n"] == len(recorder.bodies) - 2  # two to warm up
    assert found["seconds"] >= 0.39  # 0.4 less what a float leaves
    assert found["per_second"] == pytest.approx(found["requests"] / found["seconds"])
    assert found["ms"]["p50"] >= 5
    queries = [body["query"] for body in recorder.bodies]
    assert len(set(queries)) == len(queries)


def test_refusals_are_no_answers(recorder: _Recorder) -> None:
    recorder.refusing = 3
    found = load.run(recorder.address, "infinity", 1, 0.3, documents=["a", "b"], **GIVEN)
    assert found["failed"] == {"503": 1}  # the other two were to warm up
    assert found["requests"] == len(recorder.bodies) - 3
    assert recorder.bodies[0]["documents"] == ["a", "b"]


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        load.run("http://127.0.0.1:9", "match", 1, 0.1, ids=["1"], **GIVEN)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", "unknown length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_an_answer_that_cannot_be_read_is_told(answer: bytes, told: str) -> None:
    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        with pytest.raises(RuntimeError, match=told):
            load.run(f"http://127.0.0.1:{listening.getsockname()[1]}", "health", 1, 0.1, **GIVEN)
        thread.join()


def test_an_answer_in_pieces_is_read_whole() -> None:
    answered = 0

    def serve(listening: socket.socket) -> None:
        nonlocal answered
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while connection.recv(1 << 16):
                for piece in (b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\n{ ", b" }"):
                    connection.sendall(piece)
                    time.sleep(0.002)
                answered += 1

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        found = load.run(address, "health", 1, 0.1, **GIVEN)
        thread.join()
    assert found["requests"] == answered - 2
