import numpy as np
import pytest

from data_pipelines.parcels import Receiver, Sender, SharedMemory

SIZE = 4


@pytest.fixture
def sender():
    sender = Sender()
    yield sender
    sender.end()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def load(examples, images):
    for image, value in zip(images, examples):
        image[:] = value
    return {"index": np.array(examples)}


def send(sender, *values):
    return sender.pack(load, "image", SIZE, list(values))


def test_a_batch_arrives_as_it_was_sent(sender, receiver):
    batch = receiver.unpack(send(sender, 3, 250))
    assert list(batch) == ["image", "index"] and batch["index"].tolist() == [3, 250]
    np.testing.assert_array_equal(batch["image"], np.full((2, SIZE, SIZE, 3), [[[[3]]], [[[250]]]], np.uint8))


def test_memory_is_used_again_once_unpacked_and_what_was_unpacked_stays(sender, receiver):
    batches = [receiver.unpack(send(sender, value, value)) for value in range(5)]
    assert len(sender.segments) == 1
    assert [int(batch["image"].max()) for batch in batches] == list(range(5))


def test_batches_under_way_do_not_touch_each_other(sender, receiver):
    under_way = [send(sender, value) for value in range(3)]
    assert len(sender.segments) == 3
    for value in (1, 0, 2):
        assert (receiver.unpack(under_way[value])["image"] == value).all()
    send(sender, 9)
    assert len(sender.segments) == 3


def test_a_larger_batch_gets_a_larger_segment(sender, receiver):
    receiver.unpack(send(sender, 1))
    assert (receiver.unpack(send(sender, *range(9)))["image"][8] == 8).all()
    assert len(sender.segments) == 2
    receiver.unpack(send(sender, *range(9)))
    assert len(sender.segments) == 2


def test_a_batch_that_fails_leaves_its_memory_free(sender, receiver):
    def broken(examples, images):
        raise ValueError("7: broken")

    for _ in range(3):
        with pytest.raises(ValueError, match=r"^7: broken$"):
            sender.pack(broken, "image", SIZE, [7])
    assert len(sender.segments) == 1
    assert (receiver.unpack(send(sender, 5))["image"] == 5).all()


def test_the_memory_ends_with_the_worker(sender):
    name = send(sender, 1).segment
    sender.end()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    with pytest.raises(RuntimeError, match="ended"):
        send(sender, 1)
