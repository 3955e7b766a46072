"""A stored record is a tf.train.Example. Read here, because tfds' own parser takes five times as long."""

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

NUMBERS = ("age", "sigma", "attractiveness", "attractiveness_sigma")
TEXTS = ("id", "gender", "ethnicity")


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
