from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.errors import FashionBertError
from service import security
from service.security import Key, Keys, Policy, is_loopback, new_key, parse_keys
from service.settings import Settings


def policy(**changes: object) -> Policy:
    return Policy.of(Settings(bundle=Path("b"), snapshots=Path("s"), **changes))


def test_a_new_key_is_found_by_its_secret_alone() -> None:
    secret, key = new_key("shop", "search")
    other, _ = new_key("shop", "search")
    keys = Keys(key.line())
    assert keys.find(secret) == key
    assert secret not in key.line()
    for wrong in (other, secret[:-1], secret + "x", "", key.digest, "ü\ud800", "x" * 100_000):
        assert keys.find(wrong) is None


def test_several_keys_and_what_they_may_do() -> None:
    secrets, lines = {}, []
    for name, scope in (("web", "search"), ("jobs", "admin"), ("old", "search")):
        secrets[name], key = new_key(name, scope)
        lines.append(key.line())
    keys = Keys("# ours\n" + "\n".join(lines[:2]) + "  # the job's\n\n" + lines[2])
    found = {name: keys.find(secret) for name, secret in secrets.items()}
    assert {name: key.name for name, key in found.items() if key} == {n: n for n in secrets}
    web, jobs = found["web"], found["jobs"]
    assert web is not None
    assert jobs is not None
    assert (web.allows("search"), web.allows("admin")) == (True, False)
    assert (jobs.allows("search"), jobs.allows("admin")) == (True, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shop:search", "SHA-256 of shop"),
        ("shop:search:" + "g" * 64, "SHA-256 of shop"),
        ("shop:root:" + "0" * 64, "scope of shop"),
        (":search:" + "0" * 64, "a name is"),
        ("a/b:search:" + "0" * 64, "a name is"),
        (f"a:search:{'0' * 64}\n\na:admin:{'1' * 64}", "line 3: the name a is there twice"),
    ],
)
def test_lines_that_are_none(text: str, told: str) -> None:
    with pytest.raises(FashionBertError, match=told):
        parse_keys(text, "keys.txt")


@pytest.mark.parametrize("more", ["", ":search", ":search:" + "0" * 64])
def test_a_key_in_place_of_its_line_is_not_told(
    more: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, key = new_key("shop", "search")
    with pytest.raises(FashionBertError, match="looks like a key itself") as caught:
        policy(keys=f"{key.line()} {secret}{more}")
    assert "FASHIONBERT_KEYS, line 1" in str(caught.value)
    assert secret[4:] not in str(caught.value)

    file = tmp_path / "keys"
    file.write_text(key.line())
    keys = Keys(file=file)
    file.write_text(f"{key.line()}\n{secret}{more}\n")
    assert keys.find(secret) == key
    assert "looks like a key itself" in caplog.text
    assert secret[4:] not in caplog.text


def test_a_file_counts_as_soon_as_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, first_key = new_key("first", "search")
    second, second_key = new_key("second", "admin")
    file.write_text(first_key.line() + "\n")
    keys = Keys(file=file)
    assert keys.find(first) == first_key

    def replace(text: str) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        os.replace(fresh, file)

    replace(f"{first_key.line()}\n{second_key.line()}\n")
    assert keys.find(second) == second_key
    replace("half a li")  # what was valid stays valid
    assert keys.find(second) == second_key
    file.unlink()
    assert keys.find(second) == second_key
    replace("# all revoked\n")
    assert keys.find(first) is None
    assert keys.find(second) is None
    assert keys  # and nobody else is let in for that


def test_a_file_without_keys_lets_nobody_in_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    keys = Keys(file=file)
    assert keys
    assert keys.find("fbk_anything") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{file} has no keys" in caplog.text


def test_a_file_is_read_again_until_that_goes_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    first, first_key = new_key("old", "admin")
    second, second_key = new_key("new", "admin")
    file.write_text(first_key.line())
    status = file.stat()
    keys = Keys(file=file)

    def overwrite(text: str) -> None:
        """In place, at a later tick of the file system's clock; size and `mtime` stay."""
        before = file.stat().st_ctime_ns
        while file.stat().st_ctime_ns == before:
            file.write_text(text)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        now = file.stat()
        assert (now.st_ino, now.st_size, now.st_mtime_ns) == (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        )

    overwrite("?" * status.st_size)
    assert [keys.find(first), keys.find(first), keys.find(second)] == [first_key, first_key, None]
    assert [record.levelname for record in caplog.records] == ["ERROR"], "once, not each time"
    overwrite(second_key.line())
    assert (keys.find(first), keys.find(second)) == (None, second_key)
    overwrite(first_key.line())
    assert (keys.find(first), keys.find(second)) == (first_key, None)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start and later: who was taken out meanwhile is not let in until the next change."""
    file = tmp_path / "keys"
    made = [new_key(name, "search") for name in "abc"]
    file.write_text(made[0][1].line())
    later = [key.line() for _, key in made[1:]]
    read = security._read

    def read_before_a_change(path: Path) -> tuple[Key, ...]:
        found = read(path)
        if later:
            fresh = tmp_path / "fresh"
            fresh.write_text(later.pop(0))
            os.replace(fresh, path)
        return found

    monkeypatch.setattr(security, "_read", read_before_a_change)
    keys = Keys(file=file)
    for secret, key in made[1:]:
        assert keys.find(secret) == key
    assert [keys.find(secret) for secret, _ in made[:2]] == [None, None]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FashionBertError, match="FASHIONBERT_KEYS_FILE"):
        Keys(file=tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_without_keys_only_this_machine_is_let_in(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    if local:
        assert policy(host=host).anonymous == "admin"
    else:
        with pytest.raises(FashionBertError, match="FASHIONBERT_ALLOW_ANONYMOUS"):
            policy(host=host)
    # Who lets anyone in lets them search, and not change the catalogue.
    assert policy(host=host, allow_anonymous=True).anonymous == ("admin" if local else "search")
    line = new_key("shop", "search")[1].line()
    assert policy(host=host, keys=line).anonymous is None
    assert policy(host=host, keys=line, allow_anonymous=True).anonymous == "search"
