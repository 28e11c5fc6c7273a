"""Feed a CSV and its pictures to a running service, then search by text and by picture.

python client.py http://localhost:8080 feed.csv "navy striped shirt" photo.jpg

FASHIONBERT_KEY is an API key with the scope admin. Needs httpx and nothing else.
"""

import base64
import csv
import os
import sys
import time
from pathlib import Path

import httpx

TRIES, BATCH = 30, 20  # 20 products with pictures of 500 KB are 13 MB, and 16 are taken


def call(client, path, **request):
    """What a POST answers. Too fast (429) or not now (503): wait for as long as is asked for."""
    for _ in range(TRIES):  # writes and searches may both be repeated
        answer = client.post(path, **request)
        if answer.status_code not in (429, 503):
            if answer.is_error:
                sys.exit(f"{path}: {answer.text}")
            return answer.json()
        print(f"{path}: {answer.json()['code']}, waiting", file=sys.stderr, flush=True)
        time.sleep(float(answer.headers.get("Retry-After", 1)))
    sys.exit(f"{path}: still {answer.status_code} after {TRIES} tries")


def puts(feed):
    """An operation for each row: id, image, title, description; the rest are attributes."""
    for row in csv.DictReader(feed.open(newline="", encoding="utf-8")):
        files = [feed.parent / name for name in row.pop("image").split("|")]
        images = [base64.b64encode(file.read_bytes()).decode() for file in files]
        fields = {name: row.pop(name) for name in ("id", "title", "description")}
        attributes = {k: float(v) if k == "price" else v for k, v in row.items()}
        yield {"op": "put", **fields, "attributes": attributes, "images": images}


def main(address, feed, query, picture):
    """Write, then search."""
    key = {"Authorization": f"Bearer {os.environ['FASHIONBERT_KEY']}"}
    with httpx.Client(base_url=address, headers=key, timeout=60) as client:
        products = list(puts(Path(feed)))
        for start in range(0, len(products), BATCH):
            done = call(client, "/v1/items:batch", json=products[start : start + BATCH])
            for each in done["results"]:
                print(each["id"], each["outcome"], each["error"] or "")
        found = call(client, "/v1/search/text", json={"query": query, "k": 3})
        print(query, [hit["id"] for hit in found["hits"]])
        upload = {"image": Path(picture).read_bytes()}
        found = call(client, "/v1/search/image", files=upload, data={"k": 3})
        print(picture, [hit["id"] for hit in found["hits"]])


main(*sys.argv[1:])
