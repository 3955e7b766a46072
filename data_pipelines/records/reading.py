"""A stored record is a tf.train.Example. Read here, because tfds' own parser takes five times as long."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.schema import SPLITS

NUMBERS = ("age", "sigma", "attractiveness", "attractiveness_sigma")
TEXTS = ("id", "gender", "ethnicity")


def open_stored(place: Path) -> Sequence[bytes]:
    """Every record of a prepared set for parse(), in the stored order; opens its files at the first read."""
    builder = tfds.builder_from_directory(place)
    present = "+".join(split for split in SPLITS if split in builder.info.splits)
    return builder.as_data_source(present).data_source


def parse(stored: bytes) -> dict:
    """The record, as in schema.py."""
    fields = tf_example_pb2.Example.FromString(stored).features.feature
    return {
        **{name: fields[name].bytes_list.value[0].decode() for name in TEXTS},
        **{name: np.float32(fields[name].float_list.value[0]) for name in NUMBERS},
        "image": fields["image"].bytes_list.value[0],
        "identity": np.int32(fields["identity"].int64_list.value[0]),
        "landmarks": np.array(fields["landmarks"].float_list.value, np.float32).reshape(5, 2),
    }
