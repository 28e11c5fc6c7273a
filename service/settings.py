"""Everything about the service that a deployment may set, from `FASHIONBERT_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.errors import FashionBertError
from model.preprocess import ImageLimits
from service.records import DEFAULT_CANDIDATES, SearchLimits

_PREFIX = "FASHIONBERT_"
_BODY_MARGIN = 64 * 1024  # the fields beside a picture


class Settings(BaseSettings):
    """The service's settings; a field `max_k` is the variable `FASHIONBERT_MAX_K`.

    Make one with `load_settings`, which turns a wrong value into one sentence.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    bundle: Path = Field(description="folder of the exported model")
    snapshots: Path = Field(description="folder of the snapshots, with CURRENT in it")

    verify_snapshot: bool = Field(
        True, description="compare every file of the snapshot with its checksum at the start"
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65_535, description="port to listen on; 0 takes a free one")

    device: Literal["cpu", "cuda"] = Field("cpu", description="where the model runs")
    threads: int | None = Field(
        None, ge=1, description="ONNX Runtime threads of one pass; all cores by default"
    )
    concurrency: int = Field(2, ge=1, description="searches that compute at the same time")

    max_k: int = Field(1000, ge=1, description="most hits of one answer")
    candidates: int = Field(
        DEFAULT_CANDIDATES, ge=1, description="products reranked unless a request says else"
    )
    max_candidates: int = Field(1000, ge=1, description="most products that are reranked")
    max_pairs: int = Field(256, ge=1, description="most pairs of one match request")
    max_query_characters: int = Field(1000, ge=1, description="longest text of a request")
    max_upload_bytes: int = Field(10 * 1024**2, ge=1, description="largest picture")
    max_pixels: int = Field(40_000_000, ge=1, description="most pixels of a picture")
    max_body_bytes: int = Field(16 * 1024**2, ge=1, description="largest request body")

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.candidates > self.max_candidates:
            raise ValueError(
                f"candidates ({self.candidates}) is more than max_candidates "
                f"({self.max_candidates})"
            )
        needed = self.max_upload_bytes * 4 // 3 + _BODY_MARGIN
        if self.max_body_bytes < needed:
            raise ValueError(
                f"max_body_bytes ({self.max_body_bytes:,}) has no room for a picture of "
                f"max_upload_bytes ({self.max_upload_bytes:,}) in base64: set it to {needed:,} "
                "or more"
            )
        return self

    @property
    def search_limits(self) -> SearchLimits:
        """The part of the limits that a `Searcher` keeps."""
        return SearchLimits(
            max_k=self.max_k,
            max_candidates=self.max_candidates,
            max_pairs=self.max_pairs,
            max_query_characters=self.max_query_characters,
            image=ImageLimits(max_bytes=self.max_upload_bytes, max_pixels=self.max_pixels),
        )


def load_settings(**values: Any) -> Settings:
    """Settings from keyword arguments, and from the environment where one is absent or None.

    Raises:
        FashionBertError: a setting is missing or makes no sense; the message names its variable.
    """
    try:
        return Settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise missing(name) from error
        where = f"setting {name} ({_PREFIX}{name.upper()})" if name else "settings"
        raise FashionBertError(f"{where}: {message}", code="settings") from error


def missing(name: str) -> FashionBertError:
    """The error for a setting that has no default."""
    return FashionBertError(
        f"nothing says where to find the {name}: give --{name} or set {_PREFIX}{name.upper()}",
        code="settings",
    )
