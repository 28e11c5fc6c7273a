"""Forms (`multipart/form-data`, RFC 7578) whose body is in memory already.

Starlette's own reader would copy each file once more, one of a megabyte to the disk, and read all
of it in the event loop, where a form that imitates its boundary a million times holds up everyone.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.problems import ProblemError

_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")
_MAX_FIELDS = 8
#: Times that a form may have its boundary, as the parser looks closer at each.
_MAX_BOUNDARIES = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form: a field, or a file, which is one that has a file name."""

    name: str
    data: bytes
    is_file: bool

    def text(self) -> str:
        """The content as text.

        Raises:
            ProblemError: it is not in UTF-8.
        """
        return _text(self.data, f"the form's {self.name!r:.80}")


def read_form(body: bytes, content_type: str, max_files: int) -> list[Part]:
    """The parts of a form, in their order.

    Args:
        body: all of it.
        content_type: the header, which names the boundary.
        max_files: parts with a file name; of others there may be 8.

    Raises:
        ProblemError: it is cut short, is no form, has too many parts, or is not in UTF-8.
    """
    options = parse_options_header(content_type)[1]
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in _CHARSETS:
        raise ProblemError(
            "bad_request",
            f"the form's charset is {charset.decode('latin-1')!r:.80}: send it as UTF-8",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise ProblemError(
            "bad_request", "the form's content type has no boundary: send `boundary=…` with it"
        )
    if body.count(b"--" + boundary) > _MAX_BOUNDARIES:
        raise ProblemError(
            "bad_request", "the form's boundary stands in its content: choose another one"
        )
    reader = _Reader(max_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin,
                "on_header_field": reader.header_name,
                "on_header_value": reader.header_value,
                "on_headers_finished": reader.headers_end,
                "on_part_data": reader.content,
                "on_part_end": reader.part_end,
                "on_end": reader.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError("bad_request", f"the form cannot be read: {error!s:.200}") from error
    if not reader.ended:
        raise ProblemError("bad_request", "the form is cut short: it lacks its closing boundary")
    return reader.parts


class _Reader:
    """What the parser calls, as all of a body is written to it at once: each header is one call."""

    def __init__(self, max_files: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_files = max_files
        self._files = 0

    def begin(self) -> None:
        self._header = b""
        self._disposition = b""
        self._content: list[bytes] = []

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = data[start:end].lower()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header == b"content-disposition":
            self._disposition = data[start:end]

    def headers_end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise ProblemError("bad_request", "a part of the form has no name: give it one")
        self._name = _text(options[b"name"], "a name in the form")
        self._is_file = b"filename" in options
        self._files += self._is_file
        if self._files > self._max_files:
            raise ProblemError(
                "bad_request", f"the form has more than {self._max_files} files: send fewer"
            )
        if len(self.parts) + 1 - self._files > _MAX_FIELDS:
            raise ProblemError(
                "bad_request", f"the form has more than {_MAX_FIELDS} fields: send fewer"
            )

    def content(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def part_end(self) -> None:
        self.parts.append(Part(self._name, b"".join(self._content), self._is_file))

    def end(self) -> None:
        self.ended = True


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProblemError("bad_request", f"{what} is no text: send it as UTF-8") from error
