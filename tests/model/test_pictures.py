import gzip
import io
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.errors import CatalogueError
from model.pictures import Pictures, open_pictures

FILES = {f"{n // 10}/{n}.bin": random.Random(n).randbytes(n * 37) for n in range(100)}


def make_directory(path: Path) -> Path:
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def make_tar(path: Path, prefix: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def code_of(pictures: Pictures, cell: str) -> str:
    with pytest.raises(CatalogueError) as caught:
        pictures.resolve(cell)
    return caught.value.code


@pytest.fixture(params=["directory", "tar", "tar with ./", "tar with images/"])
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Pictures:
    match request.param:
        case "directory":
            return open_pictures(make_directory(tmp_path / "images"))
        case "tar":
            return open_pictures(make_tar(tmp_path / "images.tar"))
        case "tar with ./":
            return open_pictures(make_tar(tmp_path / "images.tar", "./"))
        case _:
            return open_pictures(make_tar(tmp_path / "images.tar", "images/"))


def test_many_threads_read_what_was_put_in(pictures: Pictures) -> None:
    with pictures, ThreadPoolExecutor(8) as threads:
        names = {name: pictures.resolve(name) for name in FILES}
        order = random.Random(0).sample(list(FILES) * 20, 2000)
        for name, data in zip(
            order, threads.map(lambda n: pictures.read(names[n]), order), strict=True
        ):
            assert data == FILES[name]
        assert all(pictures.size(names[name]) == len(data) for name, data in FILES.items())


def test_one_file_has_one_name_however_the_cell_spells_it(pictures: Pictures) -> None:
    spelled = ["1/12.bin", "./1/12.bin", "1//12.bin", "images/1/12.bin", "./images//1/12.bin"]
    assert len({pictures.resolve(cell) for cell in spelled}) == 1


def test_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_directory(tmp_path / "images"))
    pictures = open_pictures(Path())
    assert pictures.resolve("images/1/12.bin") == pictures.resolve("1/12.bin") == "1/12.bin"
    assert code_of(pictures, "1/99.bin") == "missing_picture"


def test_what_is_not_there(pictures: Pictures) -> None:
    for cell in ("1/99.bin", "1", "", ".", "a" * 5000, "HTTPS://shop.example/1.jpg", "a\0b"):
        assert code_of(pictures, cell) == "missing_picture"
        assert cell not in pictures
        for look in (pictures.read, pictures.size):
            with pytest.raises(CatalogueError, match="is not in") as caught:
                look(cell)
            assert caught.value.code == "missing_picture"


@pytest.mark.parametrize("cell", ["https://shop.example/1.jpg", "HTTP://shop", "//cdn.shop/1.jpg"])
def test_a_web_address_is_told(pictures: Pictures, cell: str) -> None:
    with pytest.raises(CatalogueError, match="is a web address: download it"):
        pictures.resolve(cell)


@pytest.mark.parametrize("mark", [",", ";"])
def test_several_in_one_cell_are_told(pictures: Pictures, mark: str) -> None:
    with pytest.raises(CatalogueError, match=f"say --separator '{mark}'"):
        pictures.resolve(f"1/12.bin{mark} 1/99.bin")


@pytest.mark.parametrize(
    "cell", ["/etc/passwd", "../feed.csv", "1/../../feed.csv", "1/../1/12.bin"]
)
def test_a_cell_cannot_lead_out(pictures: Pictures, cell: str) -> None:
    assert code_of(pictures, cell) == "outside_pictures"


def test_links_within_the_directory_are_followed_and_others_are_not(tmp_path: Path) -> None:
    images = make_directory(tmp_path / "images")
    (tmp_path / "images-secret").write_bytes(b"secret")
    (images / "inside").symlink_to("1/12.bin")
    (images / "file").symlink_to(tmp_path / "images-secret")
    (images / "folder").symlink_to(tmp_path)
    (images / "nowhere").symlink_to("none")
    (images / "loop").symlink_to("loop")
    os.mkfifo(images / "pipe")
    pictures = open_pictures(images)
    assert pictures.read(pictures.resolve("inside")) == FILES["1/12.bin"]
    for cell in ("file", "folder/images-secret"):
        assert code_of(pictures, cell) == "outside_pictures"
        with pytest.raises(CatalogueError, match="leads out of"):
            pictures.read(cell)
    for cell in ("nowhere", "loop", "pipe"):
        assert code_of(pictures, cell) == "missing_picture"


def test_a_file_that_becomes_a_link_out_after_it_was_found(tmp_path: Path) -> None:
    images = make_directory(tmp_path / "images")
    (tmp_path / "secret").write_bytes(b"secret")
    pictures = open_pictures(images)
    name = pictures.resolve("1/12.bin")
    (images / name).unlink()
    (images / name).symlink_to(tmp_path / "secret")
    for look in (pictures.read, pictures.size):
        with pytest.raises(CatalogueError, match="leads out of"):
            look(name)


def test_a_directory_that_is_a_link_itself(tmp_path: Path) -> None:
    make_directory(tmp_path / "store")
    (tmp_path / "images").symlink_to("store")
    assert open_pictures(tmp_path / "images").read("1/12.bin") == FILES["1/12.bin"]


def test_a_tar_holds_regular_files_and_the_later_of_two(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("a", b"old"), ("a", b"newer")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind in (("link", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    with open_pictures(path) as pictures:
        assert pictures.read("a") == b"newer"
        assert "link" not in pictures
        assert "folder" not in pictures


@pytest.mark.parametrize("name", ["images.tar.gz", "images.tar"])
def test_a_compressed_tar_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(make_tar(tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(CatalogueError, match=r"compressed with gzip.*uncompressed"):
        open_pictures(path)


def test_what_is_no_tar_or_only_half_of_one(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "images.tar")
    whole = path.read_bytes()
    for data in (b"", b"no tar" * 1000, whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(CatalogueError, match="not a tar, or is damaged or cut short"):
            open_pictures(path)


def test_a_tar_that_holds_no_files(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(CatalogueError, match="holds no files"):
        open_pictures(path)


def test_a_tar_that_shrinks_while_open(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "images.tar")
    with open_pictures(path) as pictures:
        os.truncate(path, 1000)
        with pytest.raises(CatalogueError, match="cut short since") as caught:
            pictures.read("9/99.bin")
    assert caught.value.code == "unreadable_picture"


def test_a_closed_tar_is_not_read(tmp_path: Path) -> None:
    with open_pictures(make_tar(tmp_path / "images.tar")) as pictures:
        pass
    pictures.close()
    with pytest.raises(CatalogueError, match="was closed"):
        pictures.read("1/12.bin")


def test_there_is_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="there are no pictures at"):
        open_pictures(tmp_path / "images")
    with pytest.raises(CatalogueError, match="cannot be read: File name too long"):
        open_pictures(tmp_path / ("n" * 300))
