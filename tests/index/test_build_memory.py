"""A build takes the memory that it takes, however large the catalogue is."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.bundle import Bundle

#: Bytes of a product's attributes: few products are many bytes, and the model reads few of them.
HEAVY = 20_000
FEW, MANY = 2000, 6000

_BUILD = """
import sys
from pathlib import Path
from service.cli.app import app

try:
    app(["index", "build", *sys.argv[1:]])
finally:
    peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(peak[0].split()[1])
"""


def _shop(folder: Path, products: int, kind: str) -> Path:
    """Products of 20 KB each, a hundredth with a picture that cannot be decoded."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    good, bad = buffer.getvalue(), buffer.getvalue()[:200]
    words = ["".join(map(chr, rng.integers(97, 123, 12))) for _ in range(64)]
    with tarfile.open(folder / "images.tar", "w") as tar:
        for number in range(products):
            data = bad if number % 100 == 0 else good
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    care = [" ".join(words[(n + at) % 64] for at in range(HEAVY // 13)) for n in range(64)]
    rows = [(f"p{n}", "Top", f"{n}.jpg", f"{n} {care[n % 64]}") for n in range(products)]
    columns = ("id", "title", "image", "care")
    feed = folder / f"feed.{kind}"
    if kind == "csv":
        feed.write_text("".join(f"{','.join(row)}\n" for row in (columns, *rows)))
    else:  # in one group of rows, and not smaller for being alike
        table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
        pq.write_table(table, feed, compression="none", use_dictionary=False)
    return feed


def _peak(feed: Path, bundle: Bundle) -> float:
    """MB that a build had at most, what it maps included."""
    arguments = [str(feed), "--bundle", str(bundle.path), "--out", str(feed.parent / "snapshots")]
    command = [sys.executable, "-c", _BUILD, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1]) / 1024


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_three_times_as_many_products_take_no_more(
    tmp_path: Path, bundle: Bundle, kind: str
) -> None:
    few = _peak(_shop(tmp_path / "few", FEW, kind), bundle)
    many = _peak(_shop(tmp_path / "many", MANY, kind), bundle)
    copy = (MANY - FEW) * HEAVY / 1e6  # 80 MB; allocators keep some of what they were given back
    assert many - few < 0.6 * copy, f"{few:.0f} MB, and {many:.0f}"
    assert not [path.name for path in tmp_path.glob("**/.fashionbert-*")]
