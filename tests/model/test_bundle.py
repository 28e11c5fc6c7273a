from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.bundle import (
    FILES,
    FORMAT,
    Bundle,
    Manifest,
    bundle_place,
    checksum_of,
    model_id_of,
    new_folder,
    write_manifest,
)
from model.errors import BundleError
from model.files import exchange


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(bundle.path, tmp_path / "own"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, **changes}), encoding="utf-8")


def forge(folder: Path, **changes: Any) -> None:
    """As `edit`, with a checksum that fits."""
    edit(folder, **changes)
    manifest = Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    edit(folder, checksum=checksum_of(manifest))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    return str(caught.value)


def test_a_bundle_is_what_was_exported(bundle: Bundle) -> None:
    opened = Bundle.open(bundle.path)
    assert opened == bundle
    assert re.fullmatch("fb-[0-9a-f]{16}", opened.model_id)
    manifest = opened.manifest
    assert manifest.format == FORMAT
    assert (manifest.image_size, manifest.hidden_size) == (64, manifest.config["hidden_size"])
    assert set(manifest.files) == set(FILES)
    assert isinstance(manifest.calibration, tuple)
    assert {path.name for path in bundle.path.iterdir()} == {*FILES, "manifest.json"}


def test_the_model_id_is_that_of_the_content(
    bundle: Bundle, other_bundle: Bundle, own: Path
) -> None:
    assert Bundle.open(own).model_id == bundle.model_id, "wherever it lies"
    assert other_bundle.model_id != bundle.model_id
    files = bundle.manifest.files
    assert model_id_of(dict(reversed(files.items()))) == bundle.model_id
    assert model_id_of({**files, "matcher.onnx": "0" * 64}) != bundle.model_id


def test_a_manifest_written_is_the_manifest_read(bundle: Bundle, own: Path) -> None:
    sizes = {
        name: getattr(bundle.manifest, name)
        for name in ("hidden_size", "patches", "recall_size", "image_size", "max_text_tokens")
    }
    written = write_manifest(
        own,
        **sizes,
        joint_from=2,
        precision="fp32",
        calibration=(2, -0.5),
        text_template="{title} für {age}",
        metrics={"rank1": 50.0},
    )
    assert Bundle.open(own).manifest == written
    # New figures or another calibration: the states in a snapshot are as they were.
    assert written.model_id == bundle.model_id
    assert written.checksum != bundle.manifest.checksum


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_one_flipped_byte_is_noticed(own: Path, name: str, where: str) -> None:
    data = bytearray((own / name).read_bytes())
    data[{"start": 0, "middle": len(data) // 2, "end": -1}[where]] ^= 1
    (own / name).write_bytes(data)
    assert refusal(own).startswith(f"{own / name} has been changed since the export")
    assert Bundle.open(own, verify=False).manifest.files[name]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(own: Path, name: str) -> None:
    (own / name).unlink()
    assert refusal(own) == f"{own / name} is missing: copy or export the bundle again"
    (own / name).mkdir()
    assert refusal(own).startswith(f"{own / name} is missing")


def test_what_is_no_bundle(own: Path, tmp_path: Path) -> None:
    (own / "manifest.json").unlink()
    for path in (own, tmp_path / "nothing", own / "matcher.onnx"):
        message = refusal(path)
        assert message.startswith(f"{path} is no model bundle")
        assert "`fashionbert export`" in message


@pytest.mark.parametrize("number", [FORMAT + 1, 1, 0, None, "2"])
def test_another_format_is_refused(own: Path, number: object) -> None:
    edit(own, format=number)
    expected = f"{own / 'manifest.json'} has format {number}, this version reads {FORMAT}"
    assert refusal(own).startswith(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": [2.0, 0.0]},
        {"text_template": "{title}"},
        {"precision": "int8"},
        {"metrics": {"rank1": 99.0}},
        {"max_text_tokens": 5},
        {"model_id": "fb-0123456789abcdef"},
        {"checksum": "0" * 64},
    ],
    ids=json.dumps,
)
def test_an_edited_field_is_noticed(own: Path, changes: dict[str, Any]) -> None:
    edit(own, **changes)
    for verify in (True, False):
        with pytest.raises(BundleError) as caught:
            Bundle.open(own, verify=verify)
        assert str(caught.value).startswith(
            f"{own / 'manifest.json'} has been changed since the export (its checksum is not"
        )


def test_the_model_id_of_another_is_noticed(own: Path, other_bundle: Bundle) -> None:
    forge(own, model_id=other_bundle.model_id)
    assert refusal(own).startswith(f"{own / 'manifest.json'} does not agree with itself")


def test_edited_checksums_are_noticed(own: Path, bundle: Bundle) -> None:
    files = bundle.manifest.files
    fewer = {name: files[name] for name in FILES[1:]}
    for changed in ({**files, "matcher.onnx": "0" * 64}, fewer, {**files, "more": "0" * 64}, {}):
        forge(own, files=changed)
        assert refusal(own).startswith(f"{own / 'manifest.json'} does not agree with itself")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"7", b'{"format": 2}', b'{"format": "\xff"}']
)
def test_a_damaged_manifest_is_named(own: Path, data: bytes) -> None:
    (own / "manifest.json").write_bytes(data)
    assert refusal(own).startswith(f"{own / 'manifest.json'} is damaged (")


@pytest.mark.parametrize("depth", [600, 200_000])
def test_a_manifest_nested_deep_is_damaged(own: Path, depth: int) -> None:
    path = own / "manifest.json"
    deep = b'{"metrics": ' + b"[" * depth + b"]" * depth + b", "
    path.write_bytes(path.read_bytes().replace(b'"metrics"', b'"more"').replace(b"{", deep, 1))
    assert refusal(own).startswith(f"{path} is damaged (")


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"calibration": [1.0]},
        {"calibration": ["1", "0"]},
        {"hidden_size": "128"},
        {"image_size": 64.0},
        {"recall_size": -1},
        {"patches": True},
        {"files": None},
        {"files": list(FILES)},
    ],
    ids=json.dumps,
)
def test_fields_that_cannot_be_are_named(own: Path, changes: dict[str, Any]) -> None:
    edit(own, **changes)
    message = refusal(own)
    assert message.startswith(f"{own / 'manifest.json'} is damaged (")
    assert next(iter(changes)) in message


def test_a_calibration_that_is_none_at_all(own: Path) -> None:
    edit(own, calibration=None)
    assert refusal(own).startswith(f"{own / 'manifest.json'} is damaged (")


@pytest.mark.parametrize("name", ["manifest.json", *FILES])
def test_a_file_that_cannot_be_read_is_named(own: Path, name: str) -> None:
    (own / name).unlink()
    (own / name).symlink_to("/proc/self/mem")  # there, and reading its start fails, also as root
    assert refusal(own).startswith(f"{own / name} cannot be read: ")


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    assert "cannot be read: File name too long" in refusal(tmp_path / ("n" * 300))


def test_a_new_folder_takes_its_place_at_the_end(bundle: Bundle, own: Path) -> None:
    with new_folder(own) as part:
        assert part.parent == own.parent
        (part / "manifest.json").write_text("{}")
        assert Bundle.open(own) == Bundle(own, bundle.manifest), "until then the older one is there"
    assert [path.name for path in own.iterdir()] == ["manifest.json"]
    assert list(own.parent.iterdir()) == [own]


def test_a_bundle_that_a_killed_export_has_moved_aside_is_found(own: Path) -> None:
    left = own.with_name(f".{own.name}.123.old")
    own.rename(left)
    assert f"left the one before at {left}: rename it" in refusal(own)


def test_an_error_leaves_the_older_bundle(bundle: Bundle, own: Path) -> None:
    def fail() -> None:
        with new_folder(own) as part:
            (part / "manifest.json").write_text("{}")
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fail()
    assert Bundle.open(own) == Bundle(own, bundle.manifest)
    assert list(own.parent.iterdir()) == [own]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_power_cut_leaves_the_older_bundle_or_the_new_one(
    swaps: bool, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes its place is stored before, and the older one goes when that is stored too."""
    synced: set[int] = set()
    lost: list[str] = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

    def swapped(part: Path, place: Path) -> bool:
        lost.extend(path.name for path in part.iterdir() if path.stat().st_ino not in synced)
        return swaps and exchange(part, place)

    def noted(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    def renamed(source: Path, target: Path) -> None:
        if target == own:
            files = [source, *source.iterdir()]
            lost.extend(path.name for path in files if path.stat().st_ino not in synced)
        synced.discard(target.parent.stat().st_ino)
        rename(source, target)

    def removed(path: Path, **options: Any) -> None:
        if path.name.endswith(".old") and path.parent.stat().st_ino not in synced:
            lost.append(path.name)
        rmtree(path, **options)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(shutil, "rmtree", removed)
    monkeypatch.setattr("model.files.exchange", swapped)
    with new_folder(own) as part:
        for name in FILES:
            (part / name).write_text("new")
    assert sorted(path.name for path in own.iterdir()) == sorted(FILES)
    assert lost == []


def test_a_link_keeps_leading_to_the_new_folder(own: Path, tmp_path: Path) -> None:
    link = tmp_path / "links" / "current"
    link.parent.mkdir()
    link.symlink_to(own)
    with new_folder(link) as part:
        (part / "manifest.json").write_text("{}")
    assert [path.name for path in own.iterdir()] == ["manifest.json"]
    assert link.readlink() == own
    assert list(link.parent.iterdir()) == [link], "nothing is left beside it"


def test_a_place_is_the_folder_without_links_and_dots(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    assert bundle_place(Path("new")) == own / "new"
    assert bundle_place(Path("../other")) == tmp_path / "other"
    assert bundle_place(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"


@pytest.mark.parametrize("folder", [".", "", "../empty", "inside/.."])
def test_the_folder_one_stands_in_is_not_replaced(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with (
        pytest.raises(BundleError, match="is the folder that this runs in"),
        new_folder(Path(folder)),
    ):
        raise AssertionError("no work is done for it")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_nor_is_one_around_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "inside").mkdir()
    monkeypatch.chdir(own / "inside")
    with pytest.raises(BundleError, match="or around it"):
        bundle_place(Path(".."))


def test_a_mount_point_is_not_replaced(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == own)
    with pytest.raises(BundleError, match="is a mount point"):
        bundle_place(own)
    assert bundle_place(own / "new") == own / "new"


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("file", "file is a file"),
        ("file/bundle", "file is a file"),
        ("file/deep/bundle", "file is a file"),
        ("letters", "holds something that is no bundle"),
        ("n" * 300, "cannot be written .*too long"),
        ("/proc/nothing/bundle", "cannot be written"),
    ],
)
def test_a_place_where_nothing_can_be_written(folder: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").touch()
    with pytest.raises(BundleError, match=message), new_folder(tmp_path / folder):
        raise AssertionError("no work is done for it")
