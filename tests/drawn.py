"""A tiny in-memory set for tests that need examples and not a data set: grey squares whose brightness is the age."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from data_pipelines import builders, schema


class Squares:
    """Records as schema.py has them; picklable, as loaders need."""

    def __init__(self, count: int, size: int = 40, identities: int = 4):
        self.count, self.size, self.identities = count, size, identities

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict:
        if row >= self.count:
            raise IndexError(row)
        rng = np.random.default_rng(row)
        age = float(rng.uniform(0, 100))
        image = np.full((self.size, self.size, 3), 2.5 * age, np.uint8) + rng.integers(
            0, 6, (self.size,) * 2 + (3,), np.uint8
        )
        encoded = cv2.imencode(".png", image)[1].tobytes()
        sigma = np.nan if row % 3 == 0 else 1 + row % 4
        return schema.record(f"square-{row}", encoded, age=age, sigma=sigma, identity=row % self.identities)

    def column(self, name: str) -> np.ndarray:
        return np.array([square[name] for square in self])


def prepare_squares(folder: Path, squares: Squares, heads: str, cells: Callable[[int], str]) -> Path:
    """The squares as a prepared `manifest` with the columns path,`heads`, `cells` of each row; its data_dir."""
    lines = [f"path,{heads}"]
    for row in range(len(squares)):
        (folder / f"{row}.png").write_bytes(squares[row]["image"])
        lines.append(f"{row}.png,{cells(row)}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    builders.prepare("manifest", folder / "data", raw=folder / "list.csv")
    return folder / "data"
