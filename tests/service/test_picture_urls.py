"""Fetches over real TLS: public addresses of the tests' own DNS are led to a server on loopback."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpcore
import pytest

from model.errors import FashionBertError
from service.errors import QueryError
from service.picture_urls import PictureFetcher, host_and_target, resolve
from service.settings import Settings, load_settings

HOST = "cdn.example.com"
PUBLIC = "93.184.215.14"
PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 40

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (f"https://{HOST}/a.jpg", "/a.jpg"),
        (f"https://{HOST}", "/"),
        (f"https://{HOST}:443/a%20b.jpg?w=1&h=2#top", "/a%20b.jpg?w=1&h=2"),
        (f"HTTPS://{HOST.upper()}/a/../b;c=1", "/a/../b;c=1"),
        # What is encoded stays so: it ends no line of the request.
        (f"https://{HOST}/a%0d%0aHost:%20internal?b=%0d%0a", "/a%0d%0aHost:%20internal?b=%0d%0a"),
    ],
)
def test_addresses_that_may_be_fetched(url: str, target: str) -> None:
    assert host_and_target(url, frozenset({HOST})) == (HOST, target)


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/a.jpg",
        f"ftp://{HOST}/a.jpg",
        f"//{HOST}/a.jpg",
        f"{HOST}/a.jpg",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:image/png;base64,AAAA",
        "https://",
        "https:///a.jpg",
        # Numbers for names: decimal, octal, hexadecimal, short, IPv6, mapped, in other digits.
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://0x7f.0.0.1/",
        "https://0x7f.1/",
        "https://0177.0000.0000.0001/",
        "https://00000177.1/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://0xa9fea9fe/",
        "https://2852039166/",
        "https://0251.0376.0251.0376/",
        "https://10.0.0.1/",
        "https://[::]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[0:0:0:0:0:ffff:127.0.0.1]/",
        "https://[64:ff9b:1::a00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[::1%25lo]/",
        "https://[::1]:443/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://１２７.0.0.1/",
        "https://①②⑦.⓪.⓪.①/",
        "https://127。0。0。1/",
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST:443/",
        "https://localhost.localdomain/",
        "https://127.0.0.1.nip.io/",
        "https://metadata.google.internal/",
        "https://redis/",
        # Names that only look like the one on the list.
        f"https://{HOST}./a.jpg",
        f"https://{HOST}.evil.com/a.jpg",
        f"https://evil.com.{HOST}/a.jpg",
        f"https://evil{HOST}/a.jpg",
        "https://example.com/a.jpg",
        "https://cdn。example。com/a.jpg",
        "https://cdn.exаmple.com/a.jpg",
        "https://cdn.xn--exmple-4nf.com/a.jpg",
        "https://ⓒdn.example.com/a.jpg",
        "https://ｃｄｎ.example.com/a.jpg",
        "https://cdn.example\u00ad.com/a.jpg",
        "https://cdn.example\u200b.com/a.jpg",
        f"https://{HOST}../a.jpg",
        f"https://{HOST}.:443/a.jpg",
        f"https://.{HOST}/a.jpg",
        f"https://{HOST}%00.evil.com/a.jpg",
        f"https://{HOST}%2f@evil.com/a.jpg",
        f"https://evil.com%23@{HOST}/a.jpg",
        "https://cdn%2eexample.com/a.jpg",
        # A user, another port, and what parsers read differently.
        f"https://{HOST}@127.0.0.1/",
        f"https://127.0.0.1@{HOST}/",
        f"https://user:password@{HOST}/",
        f"https://@{HOST}/",
        f"https://{HOST}@{HOST}@evil.com/",
        f"https://{HOST}:443@127.0.0.1/",
        f"https://{HOST}:80/",
        f"https://{HOST}:6379/",
        f"https://{HOST}:443:80/",
        f"https://{HOST}:/a.jpg",
        f"https://{HOST}:0443/",
        f"https://{HOST}:4430/",
        f"https://{HOST}:+443/",
        f"https://{HOST}:-443/",
        f"https://{HOST}:４４３/",
        f"https://{HOST}:99999/",
        f"https://127.0.0.1#@{HOST}/",
        f"https://127.0.0.1?@{HOST}/",
        f"https://127.0.0.1\\@{HOST}/",
        f"https://{HOST}\\.evil.com/",
        f"https:/{HOST}/a.jpg",
        f"https:\\\\{HOST}/a.jpg",
        f" https://{HOST}/",
        f"https://{HOST}/a b",
        f"https://{HOST}/\r\nHost: internal",
        f"https://{HOST}\r\n/a.jpg",
        f"https://{HOST}/a.jpg\n",
        f"\nhttps://{HOST}/a.jpg",
        f"ht\ntps://{HOST}/a.jpg",
        f"https://{HOST}\t.evil.com/",
        f"https://{HOST}/\x00",
        f"https://[{HOST}]/",
        f"https://{HOST}/" + "a" * 2000,
    ],
)
def test_addresses_that_may_not(url: str) -> None:
    with pytest.raises(QueryError) as caught:
        host_and_target(url, frozenset({HOST}))
    assert caught.value.code == "url_refused"


def test_by_default_there_are_none(settings: Settings) -> None:
    assert settings.picture_host_names == frozenset()
    with pytest.raises(QueryError, match="fetches no pictures"):
        host_and_target(f"https://{HOST}/a.jpg", settings.picture_host_names)


@pytest.mark.parametrize(
    "hosts",
    ["127.0.0.1", "[::1]", "localhost", "CDN.example.com", "*.example.com", "a.b:443", "a.b."],
)
def test_a_list_with_what_is_no_name_is_refused(hosts: str) -> None:
    with pytest.raises(FashionBertError, match="FASHIONBERT_PICTURE_HOSTS"):
        load_settings(bundle=Path("b"), snapshots=Path("s"), picture_hosts=f"{HOST}, {hosts}")


class Loopback(httpcore.AsyncNetworkBackend):
    """The internet of these tests: one public address, which is a port here."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        inner = httpcore.AnyIOBackend()
        return await inner.connect_tcp("127.0.0.1", self.port, timeout, None, socket_options)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for HOST with its key, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    key = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    files = ["-keyout", str(file.parent / "key.pem"), "-out", str(file)]
    subprocess.run([openssl, "req", *key, *names, *files], check=True, capture_output=True)
    return file


def answering(answer: bytes, requests: list[bytes] | None = None) -> Handle:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(request)
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return handle


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fetched(
    certificate: Path,
    handle: Handle,
    *,
    addresses: tuple[str, ...] | Callable[[], tuple[str, ...]] = (PUBLIC,),
    host: str = HOST,
    max_bytes: int = 100_000,
    seconds: float = 30,
) -> tuple[bytes, list[str], list[tuple[str, int]], list[str]]:
    """What was fetched; what was resolved, connected to, and given as SNI."""
    resolved: list[str] = []
    names: list[str] = []

    async def resolver(name: str) -> list[str]:
        resolved.append(name)
        return list(addresses() if callable(addresses) else addresses)

    async def run() -> tuple[bytes, list[tuple[str, int]]]:
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(certificate, certificate.parent / "key.pem")
        server_side.sni_callback = lambda _, name, __: names.append(name)
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server_side)
        backend = Loopback(server.sockets[0].getsockname()[1])
        fetcher = PictureFetcher(
            frozenset({host}),
            max_bytes,
            seconds,
            resolver=resolver,
            backend=backend,
            ssl_context=ssl.create_default_context(cafile=str(certificate)),
        )
        try:
            return await fetcher.fetch(f"https://{host}/a.jpg?w=1"), backend.asked
        finally:
            server.close()
            assert set(backend.asked) <= {(PUBLIC, 443)}

    data, asked = asyncio.run(run())
    return data, resolved, asked, names


def test_a_name_that_leads_elsewhere_a_moment_later(certificate: Path) -> None:
    """DNS rebinding: what was looked at is what is connected to."""
    answers = iter([PUBLIC, "127.0.0.1", "127.0.0.1"])
    data, resolved, asked, _ = fetched(
        certificate, answering(ok(PICTURE)), addresses=(lambda: (next(answers),))
    )
    assert (data, resolved, asked) == (PICTURE, [HOST], [(PUBLIC, 443)])
    rebound = refusal(certificate, answering(ok(PICTURE)), addresses=(lambda: (next(answers),)))
    assert rebound.code == "url_refused"


def refusal(certificate: Path, handle: Handle, **options: Any) -> QueryError:
    with pytest.raises(QueryError) as caught:
        fetched(certificate, handle, **options)
    assert caught.value.field == "image_url"
    return caught.value


def test_a_picture(certificate: Path) -> None:
    requests: list[bytes] = []
    data, resolved, asked, names = fetched(certificate, answering(ok(PICTURE), requests))
    assert data == PICTURE
    assert resolved == [HOST]  # once
    assert asked == [(PUBLIC, 443)]  # that very address
    assert names == [HOST]  # and yet the name's certificate
    (request,) = requests
    assert request.startswith(b"GET /a.jpg?w=1 HTTP/1.1\r\n")
    assert f"host: {HOST}\r\n".encode() in request.lower()
    for header in (b"authorization", b"cookie", b"x-api-key"):
        assert header not in request.lower()


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("169.254.169.254",),
        ("::1",),
        ("::ffff:10.0.0.1",),
        ("64:ff9b::a00:1",),
        ("2002:7f00:1::",),
        (PUBLIC, "10.0.0.1"),  # all of them must be public
        ("10.0.0.1", PUBLIC),
        ("fe80::1%lo",),
    ],
)
def test_a_name_with_an_address_inside(addresses: tuple[str, ...], certificate: Path) -> None:
    error = refusal(certificate, answering(ok(PICTURE)), addresses=addresses)
    assert error.code == "url_refused"
    assert not any(address in str(error) for address in addresses)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 204, 206, 401, 404, 500])
def test_redirects_are_not_followed_and_only_200_is_taken(status: int, certificate: Path) -> None:
    answer = (
        f"HTTP/1.1 {status} X\r\nLocation: https://{HOST}/b.jpg\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n"
    )
    requests: list[bytes] = []
    error = refusal(certificate, answering(answer.encode(), requests))
    assert error.code == "url_failed"
    assert len(requests) == 1


def test_another_hosts_certificate(certificate: Path) -> None:
    error = refusal(certificate, answering(ok(PICTURE)), host="other.example.com")
    assert error.code == "url_failed"


def test_too_many_bytes_announced_or_not(certificate: Path) -> None:
    endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(5_000_000)
    for answer in (ok(bytes(100_001)), endless):
        assert refusal(certificate, answering(answer)).code == "too_many_bytes"


def test_what_is_compressed_stays_so(certificate: Path) -> None:
    body = b"\x1f\x8b not even gzip"
    data, *_ = fetched(certificate, answering(ok(body, "Content-Encoding: gzip")))
    assert data == body


def test_a_host_that_takes_its_time(certificate: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.CancelledError):
            writer.close()

    error = refusal(certificate, drip, seconds=1.0)
    assert error.code == "url_failed"
    assert "1 s" in str(error)


def test_a_name_that_takes_its_time_to_resolve() -> None:
    async def resolver(name: str) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    fetcher = PictureFetcher(frozenset({HOST}), 1000, 0.05, resolver=resolver)
    with pytest.raises(QueryError, match=r"took more than 0\.05 s") as caught:
        asyncio.run(fetcher.fetch(f"https://{HOST}/a.jpg"))
    assert caught.value.code == "url_failed"


@pytest.mark.parametrize("answer", [b"", b"junk\r\n\r\n", ok(PICTURE)[:-100]])
def test_a_host_that_breaks_off(answer: bytes, certificate: Path) -> None:
    assert refusal(certificate, answering(answer)).code == "url_failed"


def test_a_name_without_an_address(certificate: Path) -> None:
    assert refusal(certificate, answering(b""), addresses=()).code == "url_failed"


def test_the_systems_resolver() -> None:
    addresses = asyncio.run(resolve("localhost"))
    assert set(addresses) <= {"127.0.0.1", "::1"}
    assert addresses
