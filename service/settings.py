"""Everything about the service that a deployment may set, from `FASHIONBERT_*` variables."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.errors import FashionBertError
from model.preprocess import ImageLimits
from model.pretrained import pretrained
from service.records import DEFAULT_CANDIDATES, SearchLimits

PREFIX = "FASHIONBERT_"
_BODY_MARGIN = 64 * 1024  # the fields beside a picture
#: Of two labels or more, the last one not a number: no spelling of an IPv4 address.
_HOST_NAME = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


class Settings(BaseSettings):
    """The service's settings; a field `max_k` is the variable `FASHIONBERT_MAX_K`.

    Make one with `load_settings`, which turns a wrong value into one sentence.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # compose files hand on a variable that is not set as an empty one
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
    )

    bundle: Path = Field(
        default_factory=pretrained,
        description="folder of the exported model; by default the one that comes along",
    )
    snapshots: Path = Field(description="folder of the snapshots, with CURRENT in it")

    verify_snapshot: bool = Field(
        True, description="compare every file of the snapshot with its checksum at the start"
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65_535, description="port to listen on; 0 takes a free one")

    device: Literal["cpu", "cuda"] = Field("cpu", description="where the model runs")
    gpu_memory: int | None = Field(
        None, ge=1, description="most bytes on the GPU that the model's graphs take; no limit"
    )
    gpu_states: int = Field(
        0, ge=0, description="most bytes on the GPU of the products' states; the rest stays here"
    )
    recall_device: Literal["cpu", "cuda"] = Field("cpu", description="where FAISS searches")
    threads: int | None = Field(
        None, ge=1, description="processor cores that the model uses; all of them by default"
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="passes of the matcher at the same time, with threads / workers cores each; "
        "by default one a core, and on a GPU one in all",
    )
    native_matcher: bool = Field(
        True,
        description="score pairs by the compiled matcher where there is one for this processor and "
        "bundle; else by ONNX Runtime",
    )
    concurrency: int = Field(
        8, ge=1, description="searches that are under way at the same time and share the cores"
    )
    write_concurrency: int = Field(
        2, ge=1, description="writes that are under way at the same time, beside the searches"
    )

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
    max_bodies_bytes: int = Field(
        64 * 1024**2, ge=1, description="of all request bodies that are held at the same time"
    )
    head_seconds: float = Field(15, gt=0, description="longest arrival of a request's head")
    body_seconds: float = Field(
        30, gt=0, description="longest arrival of a request's body, and reading of its answer"
    )

    max_queue: int = Field(
        64, ge=0, description="searches, matches and writes, each, that may wait to be computed"
    )
    queue_seconds: float = Field(10, gt=0, description="longest wait before a request is refused")
    rerank_seconds: float = Field(
        10, gt=0, description="budget of the reranker; past it the order of the recall is answered"
    )
    drain_seconds: float = Field(
        2, ge=0, description="after SIGTERM: how long /readyz says 503 before the port closes"
    )
    shutdown_seconds: int = Field(
        30, ge=0, description="after that: how long requests in flight may take to finish"
    )

    keys: SecretStr = Field(SecretStr(""), description="API keys, as lines of a keys file")
    keys_file: Path | None = Field(None, description="file of API keys: name:scope:sha256 a line")
    allow_anonymous: bool = Field(False, description="callers without a key may search")
    open_metrics: bool = Field(False, description="/metrics and /v1/status need no key")
    trusted_proxies: str = Field(
        "",
        description="addresses or networks, with commas, whose X-Forwarded-For is believed; * "
        "alone is everyone",
    )

    rate_limit: float = Field(
        0, ge=0, description="requests a second and key (or address) in the long run; 0 is no limit"
    )
    rate_burst: int = Field(20, ge=1, description="requests at once on top of that")

    redis_url: SecretStr | None = Field(
        None, description="redis://, rediss:// or unix://; shared cache and rate limits"
    )
    redis_timeout: float = Field(0.05, gt=0, description="seconds that Redis may take")
    cache_bytes: int = Field(64 * 1024**2, ge=0, description="of the cache in memory; 0 is none")
    cache_seconds: int = Field(3600, ge=1, description="how long Redis keeps an answer")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged"
    )
    traces: bool = Field(False, description="make OpenTelemetry traces; wants the extra otel")
    log_queries: bool = Field(False, description="write the text of queries into the log")

    picture_hosts: str = Field(
        "", description="hosts, with commas, that pictures may be fetched from; empty is none"
    )
    picture_seconds: float = Field(5, gt=0, description="longest fetch of a picture")

    @field_validator("picture_hosts")
    @classmethod
    def _hosts_are_names(cls, hosts: str) -> str:
        for host in _listed(hosts):
            if not _HOST_NAME.fullmatch(host):
                raise ValueError(f"{host!r} is not a host name in lower case, such as cdn.shop.com")
        return hosts

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, proxies: str) -> str:
        listed = _listed(proxies)
        return "*" if listed == ["*"] else ",".join(map(_network, listed))

    @field_validator("redis_url")
    @classmethod
    def _redis_has_a_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("a Redis address begins with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.candidates > self.max_candidates:
            raise ValueError(
                f"{PREFIX}CANDIDATES ({self.candidates}) is more than "
                f"{PREFIX}MAX_CANDIDATES ({self.max_candidates})"
            )
        if self.threads is not None and (self.workers or 1) > self.threads:
            raise ValueError(
                f"{PREFIX}WORKERS ({self.workers}) is more than {PREFIX}THREADS "
                f"({self.threads}), and each pass takes a core or more"
            )
        needed = self.max_upload_bytes * 4 // 3 + _BODY_MARGIN
        if self.max_body_bytes < needed:
            raise ValueError(
                f"{PREFIX}MAX_BODY_BYTES ({self.max_body_bytes:,}) has no room for a picture of "
                f"{PREFIX}MAX_UPLOAD_BYTES ({self.max_upload_bytes:,}) in base64: set it to "
                f"{needed:,} or more"
            )
        return self

    @property
    def picture_host_names(self) -> frozenset[str]:
        """The hosts that pictures may be fetched from."""
        return frozenset(_listed(self.picture_hosts))

    @property
    def search_limits(self) -> SearchLimits:
        """The part of the limits that a `Searcher` keeps."""
        return SearchLimits(
            max_k=self.max_k,
            max_candidates=self.max_candidates,
            max_pairs=self.max_pairs,
            max_query_characters=self.max_query_characters,
            rerank_seconds=self.rerank_seconds,
            image=ImageLimits(max_bytes=self.max_upload_bytes, max_pixels=self.max_pixels),
        )


def _listed(text: str) -> list[str]:
    return [one for one in (part.strip() for part in text.split(",")) if one]


def _network(proxy: str) -> str:
    """An address or network as one that connections are compared with: `10.0.0.5/8` is all of it.

    Raises:
        ValueError: it is neither.
    """
    try:
        network = ipaddress.ip_network(proxy, strict=False)
    except ValueError:
        alone = "; * must stand alone" if proxy == "*" else ""
        raise ValueError(
            f"{proxy!r} is no address or network such as 10.0.0.5 or 10.0.0.0/8{alone}"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:  # callers over IPv4 are known by that
        return str(ipaddress.ip_network((mapped, network.prefixlen - 96)))
    return str(network)


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
        where = f"setting {name} ({PREFIX}{name.upper()})" if name else "settings"
        raise FashionBertError(f"{where}: {message}", code="settings") from error


def missing(name: str) -> FashionBertError:
    """The error for a setting that has no default."""
    return FashionBertError(
        f"nothing says where to find the {name}: give --{name} or set {PREFIX}{name.upper()}",
        code="settings",
    )
