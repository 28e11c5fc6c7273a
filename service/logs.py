"""Logs as JSON lines, each with the request it belongs to.

A line never holds a key, a picture or, unless `FASHIONBERT_LOG_QUERIES` says so, a query.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.types import Receive

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Attributes that every record has; what else stands on one was given with `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(slots=True)
class RequestRecord:
    """What is known of a request, filled in as it goes through the service.

    `caller` is the name of its key or `anonymous`; `receive` its ASGI channel, on which a caller
    that hangs up is heard of; `code` that of the problem it is answered with; `timings`
    milliseconds by stage.
    """

    id: str
    receive: Receive | None = None
    caller: str | None = None
    cache: str | None = None
    degraded: str | None = None
    code: str | None = None
    query: str | None = None
    timings: dict[str, float] = field(default_factory=dict)


#: The request that is being answered here, in its task and in the threads it starts.
current_request: ContextVar[RequestRecord | None] = ContextVar("current_request", default=None)


def request_id(sent: str | None) -> str:
    """The id a caller sent, if it is one that a log can hold; else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return uuid.uuid4().hex


def note_query(query: str) -> None:
    """What is searched for, for the request's log line; written only where that is asked for."""
    record = current_request.get()
    if record is not None:
        record.query = query


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, request id, extras, error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = current_request.get()
        if request is not None:
            line["request_id"] = request.id
        for name, value in vars(record).items():
            if name not in _STANDARD and name != "color_message" and value is not None:
                line[name] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send every log of this process to standard error (or `stream`) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpcore", "asyncio"):  # of no use to who runs the service
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
