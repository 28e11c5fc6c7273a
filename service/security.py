"""API keys: who may search, and who may change the catalogue.

A key is 256 random bits, so its SHA-256 can stand in a file: there is no dictionary to try, and a
slow hash would only make every request slow. Keys are never stored, and are compared in constant
time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from model.errors import FashionBertError
from service.settings import Settings

Scope = Literal["search", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_PREFIX = "fbk_"  # so that scanners for leaked secrets can know one
_RANDOM_BYTES = 32
_MOST_CHARACTERS = 200  # of a key that is looked at
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_Stamp = tuple[int, int, int, int]

_logger = logging.getLogger("fashionbert.security")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored: a name for logs and metrics, what it may do, its SHA-256."""

    name: str
    scope: Scope
    digest: str

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what needs `scope`; `admin` may do everything."""
        return scope == self.scope or self.scope == "admin"

    def line(self) -> str:
        """The key's line in a keys file: `name:scope:sha256`."""
        return f"{self.name}:{self.scope}:{self.digest}"


def new_key(name: str, scope: str) -> tuple[str, Key]:
    """A fresh key: the secret, which is nowhere else, and what to store of it.

    Raises:
        FashionBertError: the name or the scope cannot be.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return secret, parse_key(f"{name}:{scope}:{_digest(secret)}", "the key")


def parse_key(line: str, where: str) -> Key:
    """A key from `name:scope:sha256`.

    Raises:
        FashionBertError: it is something else; the message begins with `where`.
    """
    if line.startswith(_PREFIX):  # a secret, which no message may repeat
        raise _wrong(
            where, "this looks like a key itself, where the line belongs that stands for it"
        )
    name, _, rest = line.partition(":")
    scope, _, digest = rest.partition(":")
    if not _NAME.fullmatch(name):
        raise _wrong(where, "a name is 1 to 64 letters, digits, dots, dashes or underscores")
    if scope not in SCOPES:
        raise _wrong(where, f"the scope of {name} is not one of {', '.join(SCOPES)}")
    if not _DIGEST.fullmatch(digest):
        raise _wrong(where, f"the SHA-256 of {name} is not 64 hexadecimal digits")
    return Key(name, scope, digest)


def _wrong(where: str, what: str) -> FashionBertError:
    return FashionBertError(
        f"{where}: {what}; a line is name:scope:sha256, as `fashionbert key new` prints it",
        code="settings",
    )


def parse_keys(text: str, where: str) -> tuple[Key, ...]:
    """Keys from lines; blanks also divide, and `#` begins a comment.

    Raises:
        FashionBertError: a line is wrong, or a name is there twice.
    """
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        for entry in line.partition("#")[0].split():
            key = parse_key(entry, f"{where}, line {number}")
            if key.name in keys:
                raise _wrong(f"{where}, line {number}", f"the name {key.name} is there twice")
            keys[key.name] = key
    return tuple(keys.values())


class Keys:
    """The keys that are valid now; a keys file that is replaced or edited counts at once.

    Args:
        text: keys given directly, as `FASHIONBERT_KEYS` has them.
        file: a keys file. It may lose all its keys, but not go back to allowing everyone.

    Raises:
        FashionBertError: a key cannot be read.
    """

    def __init__(self, text: str = "", file: Path | None = None) -> None:
        self._given = parse_keys(text, "FASHIONBERT_KEYS")
        self._file = file
        self._lock = threading.Lock()
        self._seen: _Stamp | None = None  # the file's when `_from_file` was read from it
        self._from_file: tuple[Key, ...] = ()
        self._problem: str | None = None
        if file is not None:
            self._seen, self._from_file = _stamp(file), _read(file)
            self._warn(file)

    def __bool__(self) -> bool:
        """Whether keys are in use at all."""
        return bool(self._given) or self._file is not None

    def find(self, secret: str) -> Key | None:
        """The key that this is, if it is one. Every stored digest is compared, in constant time."""
        if len(secret) > _MOST_CHARACTERS:
            return None
        digest = _digest(secret)
        found = None
        for key in self._current():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _current(self) -> Sequence[Key]:
        if self._file is not None:
            with self._lock:
                self._reload(self._file)
        return (*self._given, *self._from_file)

    def _reload(self, file: Path) -> None:
        try:
            stamp = _stamp(file)
            if stamp == self._seen:
                return
            self._from_file = _read(file)
        except FashionBertError as error:
            # Half edited: what was valid stays valid, and the next request looks again.
            if str(error) != self._problem:
                _logger.error("the keys stay as they were: %s", error)
            self._problem = str(error)
            return
        self._seen, self._problem = stamp, None
        _logger.info("%s was read again: %d keys", file, len(self._from_file))
        self._warn(file)

    def _warn(self, file: Path) -> None:
        if not (self._given or self._from_file):
            _logger.warning(
                "%s has no keys, so whoever needs one is refused: put one in, by `fashionbert key "
                "new`",
                file,
            )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(file: Path) -> _Stamp:
    """What is another once the file was edited, replaced, or made readable."""
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino


def _read(file: Path) -> tuple[Key, ...]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    return parse_keys(text, str(file))


def _unreadable(file: Path, error: Exception) -> FashionBertError:
    reason = getattr(error, "strerror", None) or error
    return FashionBertError(
        f"the keys file {file} cannot be read: {reason}; correct FASHIONBERT_KEYS_FILE",
        code="settings",
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """Whom the service lets do what.

    `keys` are the valid ones. `anonymous` is what a caller without a key may do: everything
    (`admin`) on a service without keys that only this machine can reach, else `search` where
    anonymous callers were allowed, else nothing.
    """

    keys: Keys
    anonymous: Scope | None

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """From the settings.

        Raises:
            FashionBertError: the keys cannot be read, or the service would stand open to a network
                that was not meant to be let in.
        """
        keys = Keys(settings.keys.get_secret_value(), settings.keys_file)
        if settings.allow_anonymous:
            local = not keys and is_loopback(settings.host)
            return cls(keys, "admin" if local else "search")
        if keys:
            return cls(keys, None)
        if is_loopback(settings.host):
            return cls(keys, "admin")
        raise FashionBertError(
            f"listening on {settings.host} lets others in, and there are no keys: make one with "
            "`fashionbert key new` and set FASHIONBERT_KEYS_FILE or FASHIONBERT_KEYS, or set "
            "FASHIONBERT_ALLOW_ANONYMOUS=true to let anyone search",
            code="settings",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
