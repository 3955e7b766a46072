"""Small files that are there whole or not at all, whenever the program is killed."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes beside the file and renames: who reads it finds the old text or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)
