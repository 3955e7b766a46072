"""Drawn faces whose labels are known: the data of the demo, the tests and the documentation. Nothing to download."""

import numpy as np

from data_pipelines import schema, synthetic
from data_pipelines.records.face_set import DataError, FaceSet, Row, tfds
from data_pipelines.schema import SPLITS
from data_pipelines.splits import hash_split, random_split

SHARES = {"train": 0.80, "val": 0.08, "test": 0.12}
PER_IDENTITY = 8  # pictures of each person


class Synthetic(FaceSet):
    """Faces drawn from a seed; train, val and test hold different people, but for the protocol by_image.

    Domains: wild (default) and mugshot.
    """

    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=domain) for domain in synthetic.DOMAINS]  # noqa: RUF012
    OPTIONS = {"faces": 3200, "pixels": 128, "seed": 0}  # noqa: RUF012

    def rows(self) -> list[Row]:
        people = self._people()
        split = hash_split(map(str, range(people)), SHARES, seed=self.options["seed"])
        ordered = sorted(range(people), key=lambda person: (SPLITS.index(split[str(person)]), person))
        number = np.argsort(ordered)  # train identities first: 0 … n-1, as a classifier of them wants
        shown = [synthetic.face_identity(index, people) for index in range(self.options["faces"])]
        return [
            Row(f"{index:06d}", split[str(person)], labels={"identity": int(number[person])})
            for index, person in enumerate(shown)
        ]

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        """by_image: the same people in all parts, as a random split of a set with several pictures of a person has."""
        return {"by_image": random_split([row.id for row in rows], SHARES, seed=self.options["seed"])}

    def load(self, row: Row) -> dict:
        seed, size = self.options["seed"], self.options["pixels"]
        fields = synthetic.draw_face(seed, int(row.id), self.builder_config.name, size, identities=self._people())
        return schema.record(**fields | {"id": row.id} | row.labels)

    def _people(self) -> int:
        faces = self.options["faces"]
        if faces < 1:
            raise DataError(f"synthetic: faces is {faces}; ask for 1 or more")
        return max(faces // PER_IDENTITY, min(faces, len(SPLITS)))
