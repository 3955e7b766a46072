"""Our reader of stored records gives what tfds' own gives."""

import math

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import builders, schema
from data_pipelines.records import face_set, reading


def test_records_are_those_of_tfds(drawn_data):
    folder = builders.prepared_dir("synthetic", drawn_data)
    skip = {"image": tfds.decode.SkipDecoding()}
    for stored, read in zip(
        tfds.builder_from_directory(folder).as_data_source("test", decoders=skip),
        builders.open_split("synthetic", drawn_data, "test"),
        strict=True,
    ):
        assert read.keys() == stored.keys()
        for key, value in read.items():
            expected = stored[key].decode() if isinstance(value, str) else stored[key]
            np.testing.assert_array_equal(value, expected, err_msg=key)


def test_every_field_comes_back_as_it_was_stored():
    points = np.arange(10, dtype=np.float32).reshape(5, 2) / 3
    known = {"age": 31.5, "sigma": 0.0, "attractiveness": 3.25, "attractiveness_sigma": 0.5, "identity": 7}
    words = {"gender": "female", "ethnicity": "Äthiopisch"}
    rows = [schema.record("ü/1.jpg", b"\xff\x00", **known, **words, landmarks=points), schema.record("2", b"x", age=0)]
    features = face_set.features()
    for row in rows:
        stored = features.serialize_example(features.encode_example(row))
        read = reading.parse(stored)
        assert read.keys() == row.keys()
        for key, value in row.items():
            assert type(read[key]) is type(value), key
            np.testing.assert_array_equal(read[key], value, err_msg=key)
    assert math.isnan(read["sigma"]) and read["identity"] == -1 and np.isnan(read["landmarks"]).all()
