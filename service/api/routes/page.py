"""`GET /`: the search page."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_HTML = (resources.files("service") / "page" / "index.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """CSP sources for the page's inline elements: these run, and nothing that is injected does."""
    return " ".join(
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", _HTML, flags=re.DOTALL)
    )


_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@router.head("/")
@router.get("/")
async def get_page() -> HTMLResponse:
    """The search page: one file that needs nothing from elsewhere."""
    return HTMLResponse(_HTML, headers=_HEADERS)
