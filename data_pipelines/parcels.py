"""Batches of images from a worker process to its parent, through shared memory that is used again and again.

grain's own way takes new shared memory for every batch; the kernel clears it page by page, and takes it back page by
page. At 224 px that was a fifth of a loader's time.
"""

import contextlib
import threading
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

FREE, TAKEN = 0, 1  # last byte of a segment: the worker writes where it is FREE, and the parent makes it FREE again


class Parcel:
    """A batch on its way: where its images lie, and the other columns themselves."""

    def __init__(self, segment: str, name: str, shape: tuple[int, ...], columns: dict[str, Any]):
        self.segment, self.name, self.shape, self.columns = segment, name, shape, columns


class Sender:
    """The segments of one worker: as many as it ever had batches under way at once."""

    def __init__(self):
        self.segments, self._lock, self._ended = [], threading.Lock(), False

    def pack(self, load: Callable, name: str, size: int, examples: list) -> Parcel:
        """load(examples, images) fills uint8 (B, size, size, 3), the column `name`, and returns the other columns."""
        shape = (len(examples), size, size, 3)
        segment = self._claim(int(np.prod(shape)))
        try:
            return Parcel(segment.name, name, shape, load(examples, np.ndarray(shape, np.uint8, segment.buf)))
        except BaseException:
            segment.buf[-1] = FREE
            raise

    def _claim(self, size: int) -> SharedMemory:
        with self._lock:
            if self._ended:
                raise RuntimeError("the worker has ended")
            free = [segment for segment in self.segments if segment.buf[-1] == FREE and segment.size > size]
            if not free:
                free = [SharedMemory(create=True, size=size + 1)]
                self.segments += free
            free[0].buf[-1] = TAKEN
        return free[0]

    def end(self) -> None:
        """Gives the memory back: what the parent has not unpacked is lost."""
        with self._lock:
            self._ended = True
            for segment in self.segments:
                segment.unlink()
                with contextlib.suppress(BufferError):  # a thread still writes there
                    segment.close()
            self.segments = []


class Receiver:
    """The parent's side, for all its workers."""

    def __init__(self):
        self._segments = {}

    def unpack(self, parcel: Parcel) -> dict[str, Any]:
        """The batch, in memory of its own."""
        if parcel.segment not in self._segments:
            self._segments[parcel.segment] = SharedMemory(parcel.segment)
        segment = self._segments[parcel.segment]
        images = np.ndarray(parcel.shape, np.uint8, segment.buf).copy()
        segment.buf[-1] = FREE
        return {parcel.name: images} | parcel.columns

    def close(self) -> None:
        """The workers must have ended, or be about to."""
        for segment in self._segments.values():
            segment.close()
        self._segments = {}


_sender = Sender()  # of this process


def pack(load: Callable, name: str, size: int, examples: list) -> Parcel:
    """Sender.pack of this process, a worker that has called give_back_at_exit."""
    return _sender.pack(load, name, size, examples)


def give_back() -> None:
    """Ends this worker's segments."""
    _sender.end()


def give_back_at_exit() -> None:
    """Must be called in every worker."""
    util.Finalize(None, give_back, exitpriority=1)
