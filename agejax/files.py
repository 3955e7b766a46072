"""Folders here and in Google Cloud Storage, and small files that are there whole or not at all."""

import os
from pathlib import Path

import fsspec
from etils import epath

from data_pipelines.errors import UserError

REMOTE = {"gs": "gcs"}  # scheme → fsspec's name for it


def as_path(text: str | os.PathLike) -> Path:
    """A path of this machine, or, for gs://BUCKET/…, one with the same methods. Raises UserError."""
    scheme, given, _ = os.fspath(text).partition("://")
    if not given:
        return Path(text)
    if scheme not in REMOTE:
        raise UserError(f"{text}: folders are local, or {' or '.join(f'{name}://' for name in REMOTE)}")
    try:
        fsspec.get_filesystem_class(REMOTE[scheme])
    except ImportError:
        raise UserError(f"{text} needs another package: pip install 'agejax[gcs]'") from None
    return epath.Path(text)


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def absolute(path: Path) -> Path:
    return path if is_remote(path) else path.absolute()


def modified(path: Path) -> float:
    """When, in seconds; whole seconds in a bucket."""
    found = path.stat()
    return found.mtime if is_remote(path) else found.st_mtime_ns / 1e9


def write_whole(path: Path, text: str) -> None:
    """Who reads the file, whenever the program is killed, finds the old text or the new one, never a part."""
    if is_remote(path):  # an object appears when it is closed
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)
