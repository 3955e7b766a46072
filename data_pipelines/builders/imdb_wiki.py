"""IMDB-WIKI: 523,051 photographs of celebrities from IMDb and Wikipedia, with ages worked out from dates."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.folders import entry, find_root, key, pictures
from data_pipelines.formats.imdb_wiki_mat import Photo, read_photos
from data_pipelines.records.face_set import DataError, FaceSet, Row, number_identities, split_by_hash, tfds
from data_pipelines.splits import random_split

PARTS = {"imdb": 460_723, "wiki": 62_328}  # entries of the published files
SHARES = {"train": 0.80, "val": 0.10, "test": 0.10}


class ImdbWiki(FaceSet):
    """IMDB-WIKI: age in the middle of the photograph's year by the date of birth; gender; IMDB's celebrities.

    The parts that are there: `imdb_crop` and `wiki_crop`, or the whole photographs `imdb` and `wiki` (where there are
    no crops, or with `full`), whose face boxes then say who is meant. Left out is what has no face of `min_face_score`,
    a second one above `max_second_score`, an age outside `min_age` to `max_age` and, with `known_gender`, no gender.
    Splits: train 80 %, val 10 %, test 10 % by a hash of the person's name, nobody in two. Protocol `by_image`: random
    80/10/10 of exact sizes, with people on all sides.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder that holds `imdb_crop` or `wiki_crop`, or both, with `imdb.mat` and `wiki.mat` inside"
    OPTIONS = {  # noqa: RUF012
        "min_face_score": 1.0,
        "max_second_score": 0.0,
        "min_age": 0.0,
        "max_age": 100.0,
        "known_gender": False,
        "full": False,
    }
    HOMEPAGE = "https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/"
    CITATION = (
        "Rothe, Timofte, Van Gool: Deep expectation of real and apparent age from a single image without facial "
        "landmarks, International Journal of Computer Vision 2018"
    )
    LICENCE = "academic research only; direct download"

    def source(self) -> dict:
        metas = {part: hashlib.sha256(meta.read_bytes()).hexdigest() for part, _, meta in self._parts()}
        return super().source() | metas

    def rows(self) -> list[Row]:
        found = [pair for part, folder, meta in self._parts() for pair in self._rows(part, folder, meta)]
        rows = split_by_hash([row for row, _ in found], [person for _, person in found], SHARES)
        order = number_identities({row.labels["identity"] for row in rows} - {-1}) | {-1: -1}
        return [row._replace(labels=row.labels | {"identity": order[row.labels["identity"]]}) for row in rows]

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        return {"by_image": random_split([row.id for row in rows], SHARES)}

    def _parts(self) -> list[tuple[str, Path, Path]]:
        """(part, its folder of pictures, its .mat file)."""
        wanted = [name for part in PARTS for name in (f"{part}_crop", part, f"{part}.mat")]
        root, parts = find_root(self.raw, self.NEEDS, tuple(wanted)), []
        for part in PARTS:
            names = (part, f"{part}_crop") if self.options["full"] else (f"{part}_crop", part)
            folders = [entry(folder, name) or folder for name in names if (folder := entry(root, name))]
            metas = [meta for folder in (*folders, root) if (meta := entry(folder, f"{part}.mat"))]
            if folders and not metas:
                raise DataError(f"no `{part}.mat` in {folders[0]}; --raw must name {self.NEEDS}")
            parts += [(part, folders[0] if folders else root, metas[0])] if metas else []
        return parts

    def _rows(self, part: str, folder: Path, meta: Path) -> Iterator[tuple[Row, str]]:
        """Rows, and whose they are; identity is the celebrity's own number."""
        photos, seen = read_photos(meta, part), set()
        if len(photos) != PARTS[part]:
            self.warn(f"{meta.name} has {len(photos):,} entries, the published one {PARTS[part]:,}")
        files = {key(file.relative_to(folder).as_posix()): file for file in pictures(folder, recursive=True)}
        full = key(folder.resolve().name) == part
        prefix = part if full else f"{part}_crop"
        for photo in photos:
            id, file = f"{prefix}/{photo.path}", files.pop(key(photo.path), folder / photo.path)
            if why := "listed before" if id in seen else self._unfit(photo):
                self.skip(id, f"{meta.name}: {why}")
                continue
            seen.add(id)
            labels = {"age": photo.age, "gender": photo.gender, "identity": photo.celebrity}
            yield Row(id, "", file, labels, photo.box if full else None), key(photo.person) or id
        for file in files.values():
            self.skip(f"{prefix}/{file.relative_to(folder).as_posix()}", f"not in {meta.name}")

    def _unfit(self, photo: Photo) -> str:
        """Why the options leave a photograph out."""
        limits = self.options
        if not photo.score >= limits["min_face_score"]:
            return f"face score {photo.score:g} is below {limits['min_face_score']:g}"
        if photo.second > limits["max_second_score"]:
            return f"there is a second face, of score {photo.second:g}"
        if not limits["min_age"] <= photo.age <= limits["max_age"]:
            return f"age {photo.age:g} is outside {limits['min_age']:g} to {limits['max_age']:g}"
        return "gender is not known" if limits["known_gender"] and not photo.gender else ""
