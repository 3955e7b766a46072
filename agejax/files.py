"""Folders here and in Google Cloud Storage, and small files that are there whole or not at all."""

import contextlib
import errno
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


@contextlib.contextmanager
def writing(path: Path):
    """What keeps the file from being written, as a UserError."""
    try:
        yield
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "its folder is a file" if is_file else error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}): name another file, or mend that") from None


def make_room(path: Path) -> None:
    """Makes the folder of a file that is to be written later. Raises UserError where that could not be done.

    Buckets are not asked.
    """
    if is_remote(path):
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_whole(path: Path, text: str) -> None:
    """Who reads the file, whenever the program is killed, finds the old text or the new one, never a part."""
    if is_remote(path):  # an object appears when it is closed
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)
