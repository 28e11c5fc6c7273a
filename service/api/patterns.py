"""Regular expressions of the OpenAPI document (ECMA-262), of what Python's `str.strip` leaves.

Its blanks are not those of `\\s`, which differ from one dialect to the next: they are listed.
"""

from __future__ import annotations

_BLANKS = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

#: Anything but blanks alone.
NOT_BLANK = f"[^{_BLANKS}]"
#: Not empty, and without blanks at its ends.
STRIPPED = rf"^[^{_BLANKS}]([\s\S]*[^{_BLANKS}])?$"
