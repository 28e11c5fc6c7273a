"""Which index recall searches: by the number of vectors (`auto`), or as asked for.

======================  ========  ================================================================
vectors                 rule      index
======================  ========  ================================================================
up to 200,000           `exact`   `IndexFlatIP`: every vector is compared
more                    `ivfpq`   `IndexIVFPQ`, 4·√N lists, at most 6,721, of which 1 in 32 is
                                  read, E/4 bytes a vector; six times as many as asked for, at least
                                  64, are then compared exactly
if asked for            `hnsw`    `IndexHNSWFlat`, 32 links a node, efConstruction 200, efSearch 256
======================  ========  ================================================================

The rule follows from the table in docs/BENCHMARKS.md: exact search is kept for as long as it costs
little beside the cross-encoder. Of a million vectors IVFPQ finds more than HNSW, a millisecond
later, by an index of a seventeenth of the bytes that is built in a fifth of the time; and through
a filter it loses less.
"""

from __future__ import annotations

from typing import Literal, get_args

from model.errors import SnapshotError

Rule = Literal["exact", "hnsw", "ivfpq"]
RULES: tuple[Rule, ...] = get_args(Rule)

EXACT_UP_TO = 200_000
#: Below this FAISS has too few points (39 for each of 256 centroids) to train a quantiser on.
IVFPQ_FROM = 10_000


def choose_rule(count: int, recall: str = "auto") -> Rule:
    """The rule for `count` vectors: `recall` itself, or what the table says for `auto`.

    Raises:
        SnapshotError: no such rule, or one that `count` vectors are too few for.
    """
    if recall == "auto":
        return "exact" if count <= EXACT_UP_TO else "ivfpq"
    if recall not in RULES:
        raise SnapshotError(f"recall {recall!r}: choose auto, {', '.join(RULES)}")
    if recall == "ivfpq" and count < IVFPQ_FROM:
        raise SnapshotError(
            f"recall 'ivfpq' is learnt from at least {IVFPQ_FROM:,} vectors and this catalogue "
            f"has {count:,}: choose 'auto'"
        )
    return recall
