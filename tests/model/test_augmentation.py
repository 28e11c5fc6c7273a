from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from model.augmentation import Augmentation, augmented


def noise(count: int, size: int = 32) -> NDArray[np.uint8]:
    """Pictures whose every row has colours of its own, on a white border as wide as the shift."""
    pixels = np.full((count, size, size, 3), 255, dtype=np.uint8)
    inner = size // 16
    rng = np.random.default_rng(5)
    pixels[:, inner:-inner, inner:-inner] = rng.integers(
        0, 250, (count, size - 2 * inner, size - 2 * inner, 3)
    )
    return pixels


def test_augmented_pictures_keep_shape_and_colours() -> None:
    pixels = noise(64)
    before = pixels.copy()
    result = augmented(pixels, np.random.default_rng(0))
    assert result.shape == pixels.shape
    assert result.dtype == np.uint8
    assert np.array_equal(pixels, before)
    for old, new in zip(pixels, result, strict=True):
        # Each row, wherever it went, has its own colours, mirrored or not, and white around.
        def rows(picture: NDArray[np.uint8]) -> Counter[bytes]:
            return Counter(np.sort(row, axis=0).tobytes() for row in picture)

        assert rows(old) == rows(new)


def places_of(
    pixels: NDArray[np.uint8], result: NDArray[np.uint8]
) -> Counter[tuple[bool, int, int]]:
    """How many pictures were mirrored, and shifted down and to the right, like that."""
    found: Counter[tuple[bool, int, int]] = Counter()
    for old, new in zip(pixels, result, strict=True):
        places = [
            (mirrored, down, right)
            for mirrored, seen in ((False, old), (True, old[:, ::-1]))
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(np.roll(seen, (down, right), (0, 1)), new)
        ]
        assert len(places) == 1  # a shift into the border: rolling does the same
        found[places[0]] += 1
    return found


def test_augmented_pictures_are_mirrored_and_shifted() -> None:
    pixels = noise(200)
    found = places_of(pixels, augmented(pixels, np.random.default_rng(0)))
    assert len(found) > 40  # of 50
    assert 60 < sum(count for place, count in found.items() if place[0]) < 140


def test_each_is_done_without_the_other() -> None:
    """And with the same draws, so that runs with one more differ in nothing else."""
    pixels = noise(100)

    def found(mirror: bool, shift: bool) -> Counter[tuple[bool, int, int]]:
        rng = np.random.default_rng(0)
        result = augmented(pixels, rng, Augmentation(mirror, shift))
        assert rng.integers(1 << 30) == after
        return places_of(pixels, result)

    rng = np.random.default_rng(0)
    augmented(pixels, rng)
    after = rng.integers(1 << 30)
    both = found(True, True)
    mirrored, shifted = Counter[bool](), Counter[tuple[int, int]]()
    for (mirror, *shift), count in both.items():
        mirrored[mirror] += count
        shifted[shift[0], shift[1]] += count
    assert found(True, False) == {(mirror, 0, 0): count for mirror, count in mirrored.items()}
    assert found(False, True) == {(False, *shift): count for shift, count in shifted.items()}
    assert found(False, False) == {(False, 0, 0): 100}


def test_what_leaves_the_picture_is_lost() -> None:
    pixels = np.zeros((30, 32, 32, 3), dtype=np.uint8)
    for picture in augmented(pixels, np.random.default_rng(1)):
        white = (picture == 255).all(axis=2)
        assert set(np.unique(picture)) <= {0, 255}
        # Only whole rows and columns at one side each are uncovered, white.
        assert white.all(axis=1).sum() <= 2
        assert white.all(axis=0).sum() <= 2
        assert (~white).sum() == (32 - white.all(axis=1).sum()) * (32 - white.all(axis=0).sum())
