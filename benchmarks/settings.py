"""What a run of the harness is told, and the size of the work that all contenders share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The repository.
ROOT = Path(__file__).resolve().parents[1]

#: Tokens of a query with `[CLS]` and `[SEP]`; of a document with one `[SEP]`. A picture has as many
#: patches as a document has tokens, so that a pair is of the same length for all.
QUERY_TOKENS = 24
DOCUMENT_TOKENS = 64
CANDIDATES = 64
#: Sizes of catalogues that a search is measured on.
CATALOGUES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things lie and how long is measured.

    Args:
        work: folder of models, vectors and snapshots; may be removed afterwards.
        peers: folder of the peers' environments; likewise.
        results: folder of the raw figures, a JSON file a part.
        text_backbone: directory or hub id that the weights of the texts' side start from; random
            weights of the same shape by default.
        cnn: likewise of the pictures' side.
        rounds: times that all contenders of a part are measured, one after the other.
        seconds: that one contender computes in a round, about; also of a load on a server.
        most_products: largest catalogue of the parts that grow it, disk permitting.
        most_vectors: largest number of vectors of the part `recall`.
        quick: everything tiny, to try the harness; such figures say nothing and are not reported.
    """

    work: Path
    peers: Path
    results: Path
    text_backbone: str | None = None
    cnn: str | None = None
    rounds: int = 7
    seconds: float = 2.0
    load_seconds: float = 10.0
    most_products: int = 1_000_000
    most_vectors: int = 1_000_000
    quick: bool = False

    @property
    def measured(self) -> dict[str, Any]:
        """What figures depend on: they are only kept together with figures of the same."""
        weights = {"text_backbone": self.text_backbone, "cnn": self.cnn}
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "load_seconds": self.load_seconds,
            "quick": self.quick,
            # Whether, and not where: a path is nobody else's business.
            **{name: "random" if not one else "given" for name, one in weights.items()},
        }
