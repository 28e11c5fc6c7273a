"""Markdown tables of each part's figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.growth_tables import growth
from benchmarks.markdown import name_of, number, shown, table
from benchmarks.results import values
from index.recall_rules import choose_rule

Steps = dict[str, Any]

#: A recall@64 that costs the reranked answer next to nothing.
_ENOUGH = 0.95


def rerank_library(steps: Steps) -> str:
    """Everyone's pairs a second, and our ratios."""
    found = steps["rounds"]
    pairs = found["pairs_per_second"]
    rates = table(
        ["one query × 64 candidates", "batch", "milliseconds", "pairs/s"],
        (
            [
                name_of(name),
                str(found["best_batch"].get(name, "its own")),
                shown(found["milliseconds"][name]),
                shown(pairs[name]),
            ]
            for name in sorted(pairs, key=lambda one: -pairs[one]["median"])
        ),
    )
    theirs = list(next(iter(found["ratios"].values())))
    ratios = table(
        ["times as many pairs/s as", *map(name_of, theirs)],
        (
            [name_of(ours), *(shown(each[name]) for name in theirs)]
            for ours, each in found["ratios"].items()
        ),
    )
    return f"{rates}\n\n{ratios}"


def rerank_server(steps: Steps) -> str:
    """Throughput and latency of each number of clients."""
    rows, ratios = [], []
    peers: list[str] = []
    for step, found in steps.items():
        if not step.startswith("clients/"):
            continue
        clients = step.removeprefix("clients/")
        for name, rate in found["pairs_per_second"].items():
            at = [each[name]["ms"] for each in found["rounds"]]
            rows.append(
                [
                    name_of(name),
                    clients,
                    shown(rate),
                    *(_middle([one[p] for one in at]) for p in ("p50", "p95", "p99")),
                    str(sum(one["n"] for one in at)),
                ]
            )
        for ours, each in found["ratios"].items():
            peers = list(each)
            ratios.append([name_of(ours), clients, *(shown(each[name]) for name in peers)])
    head = [
        "64 candidates a request",
        "clients",
        "pairs/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "answers",
    ]
    batches = ", ".join(
        f"{name_of(step.removeprefix('batch/'))} {found['best']}"
        for step, found in steps.items()
        if step.startswith("batch/")
    )
    return (
        f"{table(head, rows)}\n\n"
        f"{table(['times as many pairs/s as', 'clients', *map(name_of, peers)], ratios)}\n\n"
        f"Batch sizes that were found best for one client: {batches}."
    )


def _middle(rounds: list[float]) -> str:
    return number(sorted(rounds)[len(rounds) // 2])


def overhead(steps: Steps) -> str:
    """What each level adds."""
    parts = []
    for name, found in steps.items():
        over = found["over_sessions_percent"]
        parts.append(
            table(
                [
                    f"{name_of(name)}, {found['products']:,} products",
                    "milliseconds",
                    "over the sessions, %",
                ],
                (
                    [name_of(level), shown(spent), shown(over[level]) if level in over else ""]
                    for level, spent in found["milliseconds"].items()
                ),
            )
        )
        stages = ", ".join(
            f"{stage} {number(one['median'])}" for stage, one in found["stages"].items()
        )
        parts.append(f"Milliseconds by stage inside the search: {stages}.")
    return "\n\n".join(parts)


def limit(steps: Steps) -> str:
    """Peaks, and how near the engine comes."""
    found = steps["rounds"]
    kinds = sorted({name.partition("/")[0] for name in found["gigaflops"]})
    peaks = table(
        ["GFLOP/s (int8: giga-operations/s)", "M × K × N", *kinds],
        (
            [
                place,
                " × ".join(map(str, sizes)),
                *(shown(found["gigaflops"][f"{kind}/{place}"]) for kind in kinds),
            ]
            for place, sizes in found["shapes"].items()
        ),
    )
    memory = ", ".join(
        f"{kind} {shown(one)}" for kind, one in found["gigabytes_per_second"].items()
    )
    engines = table(
        [
            "",
            "MFLOP a pair",
            "without sharing",
            "KB a pair",
            "pairs/s allowed",
            "pairs/s",
            "share, %",
        ],
        (
            [
                name_of(name),
                number(one["megaflop_a_pair"]["matrix"] + one["megaflop_a_pair"]["attention"]),
                number(one["megaflop_a_pair"]["dense"]),
                number(one["kilobytes_a_pair"]),
                shown(one["allowed_pairs_per_second"]),
                shown(found["pairs_per_second"][name]),
                shown(one["share_percent"]),
            ]
            for name, one in found["engines"].items()
        ),
    )
    return f"{peaks}\n\nMemory, GB/s: {memory}.\n\n{engines}"


def recall(steps: Steps) -> str:
    """What each rule finds, takes and weighs."""
    rows = []
    for step, found in steps.items():
        if not step.endswith("/search"):
            continue
        count = step.removesuffix("/search")
        for rule, one in found.items():
            built = steps[f"{count}/build/{rule}"]
            rows.append(
                [
                    rule,
                    f"{int(count):,}",
                    f"{one['recall']:.3f}",
                    shown(one["p50"]),
                    shown(one["p99"]),
                    number(built["bytes_a_vector"]),
                    number(built["seconds"]),
                ]
            )
    head = ["rule", "vectors", "recall@64", "p50 ms", "p99 ms", "bytes a vector", "built in s"]
    return f"{table(head, rows)}\n\n{_default_rules(steps)}"


def _default_rules(steps: Steps) -> str:
    """What `auto` takes, beside the soonest of those that find nearly all."""
    told = []
    for step, found in steps.items():
        if not step.endswith("/search"):
            continue
        count = step.removesuffix("/search")
        default = choose_rule(int(count))
        enough = [rule for rule, one in found.items() if one["recall"] >= _ENOUGH]
        soonest = min(enough, key=lambda rule: found[rule]["p50"]["median"], default="none")
        about = f"{int(count):,} vectors: `{default}`"
        if default in found:
            one = found[default]
            about += f" ({one['recall']:.3f} in {number(one['p50']['median'])} ms)"
        told.append(f"- {about}; soonest with a recall of {_ENOUGH} or more: `{soonest}`")
    return "What `--recall auto` takes:\n\n" + "\n".join(told)


def start(steps: Steps) -> str:
    """Seconds until the first answer, and megabytes."""
    parts = []
    for step, found in steps.items():
        what, _, count = step.partition("/")
        if what == "start":
            parts.append(
                table(
                    [
                        f"seconds, {int(count):,} products",
                        "`/healthz`",
                        "`/readyz`",
                        "first answer",
                    ],
                    (
                        [
                            f"snapshot {name}",
                            *(shown(one[at]) for at in ("alive", "ready", "answer")),
                        ]
                        for name, one in found.items()
                    ),
                )
            )
        else:
            kinds = ("snapshot", "other_files", "anonymous", "beyond_snapshot")
            parts.append(
                table(
                    [
                        f"MB resident, {int(count):,} products",
                        "of the snapshot's files",
                        "of other files",
                        "of none",
                        "beyond the snapshot",
                    ],
                    (
                        [when, *(number(one[kind]) for kind in kinds)]
                        for when, one in found["megabytes"].items()
                    ),
                )
            )
    return "\n\n".join(parts)


def offline(steps: Steps) -> str:
    """The job's rate beside the sessions'."""
    rows = []
    for name, found in steps.items():
        rates, shares, facts = (
            found[one] for one in ("pictures_per_second", "share_percent", "facts")
        )
        told = {"job": "the job", "processes": f"the job, {facts['processes']} processes"}
        for level, about in told.items():
            rows.append(
                [
                    f"{name_of(name)}: {about}",
                    f"{facts['pictures']:,}",
                    shown(rates[level]),
                    *(shown(rates[bare]) for bare in ("wide", "sessions")),
                    *(shown(shares[level][bare]) for bare in ("wide", "sessions")),
                ]
            )
    bare = ("bare sessions, each pass by all cores", "bare sessions, a pass a core")
    head = ["", "pictures", "pictures/s", *bare, "share of the former, %", "of the latter, %"]
    return table(head, rows)


TABLES: dict[str, Callable[[Steps], str]] = {
    "rerank-library": rerank_library,
    "rerank-server": rerank_server,
    "overhead": overhead,
    "growth": growth,
    "limit": limit,
    "recall": recall,
    "start": start,
    "offline": offline,
}


def of_part(data: dict[str, Any]) -> str:
    """The tables of a finished part, and when it was measured."""
    peers = "".join(
        f" {name}: {', '.join(f'{package} {one}' for package, one in packages.items())}."
        for name, packages in data.get("peers", {}).items()
    )
    loads = [step["load_before"][0] for step in data["steps"].values()]
    return (
        f"{TABLES[data['part']](values(data))}\n\n"
        f"Measured {data['started'][:10]}; load average before a step at most {max(loads)}.{peers}"
    )
