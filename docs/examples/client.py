"""Feed a CSV and its pictures to a running service, then search by text and by picture.

python client.py http://localhost:8080 feed.csv "navy striped shirt" photo.jpg

Pictures are files beside the feed or in images/ there; of a tar unpack them first.
FASHIONBERT_KEY is an API key with the scope admin. Needs httpx and nothing else.
"""

import base64
import csv
import os
import sys
import time
from itertools import islice
from pathlib import Path

import httpx

TRIES, BATCH = 30, 20  # 20 products with pictures of 500 KB are 13 MB, and 16 are taken
FIELDS = "id", "title", "description"
CELLS = {"double": float, "strings": lambda cell: cell.split("|")}
CELLS["int64"] = lambda cell: float(cell) if "." in cell else int(cell)
CELLS["bool"] = lambda cell: {"true": True, "false": False}.get(cell.lower(), cell)


def call(client, path, method="POST", **request):
    """The answer. Too fast, not now, or none at all: wait, and send it again, which is safe."""
    for _ in range(TRIES):
        try:
            answer = client.request(method, path, **request)
            if answer.status_code not in (429, 502, 503, 504):
                return answer.json() if answer.is_success else sys.exit(f"{path}: {answer.text}")
            wait, why = answer.headers.get("Retry-After", 1), answer.text
        except httpx.TransportError as error:
            wait, why = 1, repr(error)
        print(f"{path}: waiting, {why}", file=sys.stderr, flush=True)
        time.sleep(float(wait))
    sys.exit(f"{path}: gave up after {TRIES} tries, {why}")


def typed(cell, kind):
    """A cell as the catalogue has its column; as text where it is new, or reads as nothing else."""
    try:
        value = CELLS.get(kind, str)(cell) if cell else None
        return cell if str(value) in ("nan", "inf", "-inf") else value  # JSON has none of them
    except ValueError:
        return cell


def puts(feed, kinds):
    """An operation for each row: id, image, title, description if any; the rest are attributes."""
    for row in csv.DictReader(feed.open(newline="", encoding="utf-8")):
        names = row.pop("image").split("|")
        folder = feed.parent if (feed.parent / names[0]).exists() else feed.parent / "images"
        images = [base64.b64encode((folder / name).read_bytes()).decode() for name in names]
        fields = {name: row.pop(name) for name in FIELDS if name in row}
        attributes = {name: typed(cell, kinds.get(name)) for name, cell in row.items()}
        yield {"op": "put", **fields, "attributes": attributes, "images": images}


def main(address, feed, query, picture):
    """Write, then search."""
    key, refused = {"Authorization": f"Bearer {os.environ['FASHIONBERT_KEY']}"}, 0
    with httpx.Client(base_url=address, headers=key, timeout=60) as client:
        products = puts(Path(feed), call(client, "/v1/index", "GET")["attributes"])
        while batch := list(islice(products, BATCH)):
            done = call(client, "/v1/items:batch", json=batch)
            refused += done["refused"]
            for each in done["results"]:
                print(each["id"], each["outcome"], each["error"] or "")
        found = call(client, "/v1/search/text", json={"query": query, "k": 3})
        print(query, [hit["id"] for hit in found["hits"]])
        upload = {"image": Path(picture).read_bytes()}
        found = call(client, "/v1/search/image", files=upload, data={"k": 3})
        print(picture, [hit["id"] for hit in found["hits"]])
    sys.exit(f"{refused} products were refused, see above" if refused else 0)


main(*sys.argv[1:])
