"""Scalars, strings and runs of numbers as Torch7's files keep them, binary and ASCII (torch/torch7, THDiskFile.c)."""

import mmap
import re
import struct
import warnings

import numpy as np

from data_pipelines.errors import DataError


class BinaryFile:
    """Little-endian; `long` is the size of a C long on the machine that wrote it, in bytes."""

    smallest = 4  # bytes of the smallest object, nil

    def __init__(self, data: mmap.mmap, long: int):
        self.data, self.at, self.long = data, 0, long

    def skip(self, size: int) -> int:
        """Where the next `size` bytes begin; they are there."""
        start = self.at
        if not 0 <= size <= len(self.data) - start:
            raise DataError(f"{size:,} bytes announced at byte {start:,}, the file has {len(self.data):,} in all")
        self.at = start + size
        return start

    def integer(self) -> int:
        return struct.unpack_from("<i", self.data, self.skip(4))[0]

    def double(self) -> float:
        return struct.unpack_from("<d", self.data, self.skip(8))[0]

    def longs(self, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}{'q' if self.long == 8 else 'i'}", self.data, self.skip(count * self.long))

    def characters(self, size: int) -> bytes:
        start = self.skip(size)
        return self.data[start : self.at]

    def skip_elements(self, dtype: np.dtype, count: int) -> int:
        return self.skip(count * self.width(dtype))

    def elements(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        stored = f"<{dtype.kind}{self.width(dtype)}"
        return np.frombuffer(self.data, stored, count, start).astype(dtype)  # a copy: aligned, and free of the file

    def width(self, dtype: np.dtype) -> int:
        return self.long if dtype == np.int64 else dtype.itemsize


class AsciiFile:
    """Every scalar, string and list ends with a newline, which must be there: a number without it may have been cut."""

    smallest = 2
    INTEGER = re.compile(rb"\s*([+-]?\d{1,20})\n")
    DOUBLE = re.compile(rb"\s*([-+.\w]{1,40})\n")

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def match(self, pattern: re.Pattern) -> bytes:
        found = pattern.match(self.data, self.at)
        if not found:
            raise DataError(f"a number is missing, or cut, at byte {self.at:,}")
        self.at = found.end()
        return found[1]

    def integer(self) -> int:
        return int(self.match(self.INTEGER))

    def double(self) -> float:
        text = self.match(self.DOUBLE)
        try:
            return float(text)
        except ValueError:
            raise DataError(f"{text!r} before byte {self.at:,} is not a number") from None

    def longs(self, count: int) -> tuple[int, ...]:
        start = self.skip_elements(np.dtype(np.int64), count)
        return tuple(self.elements(start, np.dtype(np.int64), count).tolist())

    def characters(self, size: int) -> bytes:
        start = self.skip_elements(np.dtype(np.uint8), size)
        return self.data[start : start + size]

    def skip_elements(self, dtype: np.dtype, count: int) -> int:
        """Bytes lie as they are, numbers in words; both on a line of their own, unless there are none."""
        start, raw = self.at, dtype.itemsize == 1
        if count:
            end = start + count if raw else self.data.find(b"\n", start)
            cut = self.data[end : end + 1] != b"\n"  # nor is -1 where one is
            if count < 0 or cut or (2 * count > end - start + 1 and not raw):
                raise DataError(f"the {count:,} elements announced at byte {start:,} are not all there")
            self.at = end + 1
        return start

    def elements(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        if dtype.itemsize == 1 or not count:
            return np.frombuffer(self.data, dtype, count, start).copy()
        text = self.data[start : self.data.find(b"\n", start)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of what is not a number
            try:
                read = np.fromstring(text, np.float64 if dtype.kind == "f" else np.int64, sep=" ")
            except (DeprecationWarning, ValueError, OverflowError):
                raise DataError(f"the line at byte {start:,} holds something that is not a number") from None
        if len(read) != count:
            raise DataError(f"{count:,} elements announced at byte {start:,}, the line holds {len(read):,}")
        with np.errstate(over="ignore"):
            return read.astype(dtype)
