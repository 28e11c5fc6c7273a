"""The command: `python -m benchmarks PART...`, or `all`, `prepare`, `report`."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import models, peers, report
from benchmarks.parts import (
    growth,
    limit,
    offline,
    overhead,
    recall,
    rerank_library,
    rerank_server,
    start,
)
from benchmarks.settings import ROOT, Settings

#: In the order of `all`: the short ones first.
PARTS: dict[str, Callable[[Settings], None]] = {
    "rerank-library": rerank_library.run,
    "limit": limit.run,
    "overhead": overhead.run,
    "rerank-server": rerank_server.run,
    "start": start.run,
    "offline": offline.run,
    "recall": recall.run,
    "growth": growth.run,
}
DOCUMENT = ROOT / "docs" / "BENCHMARKS.md"
RESULTS = ROOT / "benchmarks" / "results"


def parse(arguments: list[str]) -> tuple[list[str], Settings, bool]:
    """What to do, with what, and whether to measure again what is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="+", choices=[*PARTS, "all", "prepare", "report"])
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench")
    parser.add_argument("--results", type=Path, default=None, help="folder of the JSON files")
    parser.add_argument(
        "--text-backbone",
        default=os.environ.get("BENCH_TEXT_BACKBONE"),
        help="directory or hub id of a BERT; random weights without ($BENCH_TEXT_BACKBONE)",
    )
    parser.add_argument(
        "--cnn",
        default=os.environ.get("BENCH_CNN"),
        help="directory or hub id of a vision model; random weights without ($BENCH_CNN)",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a contender in a round")
    parser.add_argument("--load-seconds", type=float, default=10.0, help="of a load on a server")
    parser.add_argument("--most-products", type=int, default=1_000_000)
    parser.add_argument("--most-vectors", type=int, default=1_000_000)
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the harness only")
    given = vars(parser.parse_args(arguments))
    what, again = given.pop("what"), given.pop("again")
    given["peers"] = given["work"] / "peers"
    if given["quick"]:
        given["work"] /= "quick"
        given |= {"rounds": 2, "seconds": 0.1, "load_seconds": 0.5}
    quick_results = given["work"] / "results"
    given["results"] = given["results"] or (quick_results if given["quick"] else RESULTS)
    return what, Settings(**given), again


def main(arguments: list[str]) -> int:
    """Run the parts asked for, one after the other, then write the report.

    A part that fails is told of and the others are run; what it had measured is kept, and so are
    all steps of earlier runs with the same settings.

    Returns:
        The exit code: 1 if a part failed.
    """
    what, settings, again = parse(arguments)
    settings.work.mkdir(parents=True, exist_ok=True)
    if "prepare" in what:
        prepare(settings)
    wanted = list(PARTS) if "all" in what else [one for one in PARTS if one in what]
    if again:
        for part in wanted:
            (settings.results / f"{part}.json").unlink(missing_ok=True)
    failed = [part for part in wanted if not _ran(part, settings)]
    if not settings.quick and settings.results == RESULTS:
        missing = report.write_report(settings.results, DOCUMENT)
        print(f"{DOCUMENT.relative_to(ROOT)} written; not measured: {missing}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}; run them again", file=sys.stderr)
    return 1 if failed else 0


def prepare(settings: Settings) -> None:
    """Make the models and install the peers, so that a run only measures."""
    models.ensure(settings)
    for name in peers.PEERS:
        peers.ready(settings.peers, name)


def _ran(part: str, settings: Settings) -> bool:
    """Run a part; whether it came to its end."""
    began = time.monotonic()
    try:
        PARTS[part](settings)
    except Exception:  # whatever it is, the other parts are none of it
        traceback.print_exc()
        print(f"{part} failed after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return False
    print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
