from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import BundleError, FashionBertError
from model.preprocess import ImageLimits
from service.records import SearchLimits
from service.settings import load_settings


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHIONBERT_BUNDLE", "/somewhere/bundle")
    monkeypatch.setenv("FASHIONBERT_SNAPSHOTS", "/somewhere/snapshots")


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHIONBERT_MAX_K", "50")
    settings = load_settings(bundle=Path("mine"), port=None)
    assert settings.bundle == Path("mine")
    assert settings.snapshots == Path("/somewhere/snapshots")
    assert settings.port == 8080
    assert settings.search_limits.max_k == 50


def test_a_searcher_has_its_limits() -> None:
    given = {"max_k": 101, "max_candidates": 102, "max_pairs": 103, "max_query_characters": 104}
    pictures = {"max_upload_bytes": 105_000, "max_pixels": 106_000}
    settings = load_settings(**given, **pictures, rerank_seconds=10.7)
    image = ImageLimits(max_bytes=105_000, max_pixels=106_000)
    assert settings.search_limits == SearchLimits(**given, rerank_seconds=10.7, image=image)


def test_a_missing_one_is_told_with_its_option_and_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FASHIONBERT_SNAPSHOTS")
    with pytest.raises(FashionBertError, match="--snapshots or set FASHIONBERT_SNAPSHOTS"):
        load_settings()


def test_without_a_bundle_it_is_the_one_that_comes_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FASHIONBERT_BUNDLE")
    monkeypatch.setattr("model.pretrained.FOLDER", tmp_path)
    with pytest.raises(BundleError, match="--bundle or set FASHIONBERT_BUNDLE"):
        load_settings()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "manifest.json").touch()
    assert load_settings().bundle == tmp_path / "small"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("DEVICE", "tpu"),
        ("CONCURRENCY", "0"),
        ("DRAIN_SECONDS", "inf"),
        ("BODY_SECONDS", "1e400"),
        ("RERANK_SECONDS", "nan"),
    ],
)
def test_a_wrong_value_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FASHIONBERT_{name}", value)
    with pytest.raises(FashionBertError, match=rf"\(FASHIONBERT_{name}\)") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(FashionBertError, match=r"^settings: FASHIONBERT_MAX_BODY_BYTES .*no room"):
        load_settings(max_upload_bytes=1_000_000, max_body_bytes=1_000_000)
    with pytest.raises(FashionBertError, match=r"FASHIONBERT_CANDIDATES \(64\) is more than"):
        load_settings(max_candidates=10)
    with pytest.raises(FashionBertError, match=r"WORKERS \(3\) is more than FASHIONBERT_THREADS"):
        load_settings(workers=3, threads=2)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("*", "*"),
        ("127.0.0.1", "127.0.0.1/32"),
        (" 10.0.0.5/8 , fd00::1/8,", "10.0.0.0/8,fd00::/8"),
        ("::ffff:10.1.2.3, ::ffff:10.0.0.0/104", "10.1.2.3/32,10.0.0.0/8"),
    ],
)
def test_proxies_are_networks(given: str, kept: str) -> None:
    assert load_settings(trusted_proxies=given).trusted_proxies == kept


@pytest.mark.parametrize("wrong", ["balancer", "10.0.0.0/33", "10.0.0.256", "*", "1.2.3.4:80"])
def test_what_is_no_proxy_is_named(wrong: str) -> None:
    with pytest.raises(FashionBertError, match="FASHIONBERT_TRUSTED_PROXIES") as caught:
        load_settings(trusted_proxies=f"10.0.0.5,{wrong}")
    assert f"{wrong!r} is no address or network" in str(caught.value)
