"""The pictures beside a feed: a directory, or a tar that is read in place."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import weakref
import zlib
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from model.errors import CatalogueError
from model.on_disk import DiskTable

_MOST_FOLDERS = 4096  # of which it is remembered where they are
_MOST_MEMBERS = 1024  # likewise: a picture is mostly asked for several times in a row

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Pictures(ABC):
    """Pictures by name. Any number of threads may read at once.

    A name is a relative path with forward slashes, as `resolve` returns it.
    """

    path: Path

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Open a store; another process does so again, given its class and `path`."""

    def resolve(self, cell: str) -> str:
        """The name under which the store holds what the image cell of a feed means.

        A cell is tried as it is, then without and with the store's own name in front: a feed that
        says `images/1.jpg` finds `1.jpg` in the directory `images` or the tar `images.tar`, and
        one that says `1.jpg` finds `images/1.jpg`.

        Raises:
            CatalogueError: with the code `outside_pictures` for an absolute path, one with `..`,
                or one that a symbolic link takes out of the directory; with `missing_picture`
                when there is no such file.
        """
        if cell.lower().startswith(("http://", "https://", "//")):
            raise _missing(f"{cell!r} is a web address: download it and name the file")
        if cell.startswith("/") or ".." in cell.split("/"):
            raise CatalogueError(
                f"{cell!r} leads out of {self.path}: use a path inside it", code="outside_pictures"
            )
        found = self._find(cell)
        if found is not None:
            return found
        for mark in ",;":
            if mark in cell and self._find(cell.partition(mark)[0].strip()) is not None:
                raise _missing(
                    f"{cell!r} is not in {self.path}, but its first part is: say --separator "
                    f"{mark!r} if such a cell names several pictures"
                )
        raise _missing(f"{cell!r} is not in {self.path}")

    def _find(self, cell: str) -> str | None:
        name = posixpath.normpath(cell)
        own = os.path.basename(os.path.abspath(self.path)).removesuffix(".tar")  # also of `.`
        candidates = (name, name.removeprefix(f"{own}/"), f"{own}/{name}")
        return next((candidate for candidate in candidates if candidate in self), None)

    @abstractmethod
    def __contains__(self, name: object) -> bool: ...

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a picture; CatalogueError as `read`."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The encoded picture.

        Raises:
            CatalogueError: with the code `missing_picture`, `outside_pictures` or, when there is
                a file that cannot be read, `unreadable_picture`.
        """

    def checksum(self, name: str) -> int:
        """CRC-32 of a picture as it is stored; CatalogueError as `read`."""
        return zlib.crc32(self.read(name))

    @abstractmethod
    def close(self) -> None:
        """Let go of the files; reading afterwards is an error. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _missing(message: str) -> CatalogueError:
    return CatalogueError(message, code="missing_picture")


def open_pictures(path: Path) -> Pictures:
    """Open a directory, or an uncompressed tar.

    Raises:
        CatalogueError: it is neither, or the tar is damaged.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read: {error.strerror}") from error
    if is_folder:
        return DirectoryPictures(path)
    if not is_there:
        raise CatalogueError(f"there are no pictures at {path}: name a directory or a .tar file")
    return TarPictures(path)


class DirectoryPictures(Pictures):
    """The files below a directory. Symbolic links are followed as long as they stay below it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = os.path.realpath(path)
        self._below = os.path.join(self._root, "")
        self._folders: dict[str, str] = {}  # by name; finding out costs more than a small read

    def _locate(self, name: str) -> tuple[str, os.stat_result] | None:
        """Where a regular file really is, or None; never looks at anything outside."""
        folder, base = posixpath.split(name)
        try:
            real = self._folders.get(folder)
            if real is None:
                if len(self._folders) >= _MOST_FOLDERS:
                    self._folders.clear()
                real = self._folders[folder] = os.path.realpath(os.path.join(self._root, folder))
            path = os.path.join(self._inside(real, name), base)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = self._inside(os.path.realpath(path), name)
                status = os.stat(path)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None
        return (path, status) if stat.S_ISREG(status.st_mode) else None

    def _inside(self, real: str, name: str) -> str:
        """A real path, if it is the directory's or below it."""
        if not real.startswith(self._below) and real != self._root:
            raise CatalogueError(
                f"{name!r} leads out of {self.path}: put the file itself there",
                code="outside_pictures",
            )
        return real

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._locate(name) is not None

    def size(self, name: str) -> int:
        """As `Pictures.size`."""
        found = self._locate(name)
        if found is None:
            raise _missing(f"{name!r} is not in {self.path}")
        return found[1].st_size

    def read(self, name: str) -> bytes:
        """As `Pictures.read`."""
        found = self._locate(name)
        if found is None:
            raise _missing(f"{name!r} is not in {self.path}")
        try:
            with open(found[0], "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise CatalogueError(
                f"{name!r} in {self.path} cannot be read: {error.strerror}",
                code="unreadable_picture",
            ) from error

    def close(self) -> None:
        """Nothing is held open."""


def _place(stored: list[int]) -> tuple[int, int]:
    offset, size = stored
    return offset, size


class TarPictures(Pictures):
    """The regular files of an uncompressed tar.

    Its headers are read once, and where each picture is put on disk; a picture is then one
    positioned read (`pread`) on one file descriptor, which has no position that threads could fight
    over. Links and devices are not pictures; of two members with one name the later counts, as when
    unpacking.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Name to offset and size.
        self._members: DiskTable[tuple[int, int]] = DiskTable(lambda place: place, _place)
        self._recent = lru_cache(_MOST_MEMBERS)(self._members.get)
        try:
            with path.open("rb") as file:
                head = file.read(8)
                for magic, compression in _COMPRESSED.items():
                    if head.startswith(magic):
                        raise CatalogueError(
                            f"{path} is compressed with {compression}, so its pictures cannot be "
                            "read in any order: give an uncompressed .tar, or unpack it"
                        )
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        if member.isreg() and not member.issparse():
                            name = posixpath.normpath(member.name)
                            self._members.put(name, (member.offset_data, member.size))
                        # It keeps all of them, and its stub does not know where.
                        tar.members.clear()  # type: ignore[attr-defined]
            if not self._members:
                raise CatalogueError(f"{path} holds no files: give the tar with the pictures")
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except tarfile.TarError as error:
            raise CatalogueError(
                f"{path} is not a tar, or is damaged or cut short ({error}): "
                "give a directory or an uncompressed .tar"
            ) from error
        except OSError as error:
            raise CatalogueError(f"{path} cannot be read: {error.strerror}") from error
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._recent(name) is not None

    def _member(self, name: str) -> tuple[int, int]:
        place = self._recent(name)
        if place is None:
            raise _missing(f"{name!r} is not in {self.path}")
        return place

    def size(self, name: str) -> int:
        """As `Pictures.size`."""
        return self._member(name)[1]

    def read(self, name: str) -> bytes:
        """As `Pictures.read`."""
        offset, size = self._member(name)
        if not self._close.alive:
            raise CatalogueError(
                f"{self.path} was closed: open it again", code="unreadable_picture"
            )
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise CatalogueError(
                f"{name!r} in {self.path} cannot be read: {error.strerror}",
                code="unreadable_picture",
            ) from error
        if len(data) != size:
            raise CatalogueError(
                f"{name!r} in {self.path} has {len(data):,} of {size:,} bytes: the tar was cut "
                "short since it was opened",
                code="unreadable_picture",
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self._close()
