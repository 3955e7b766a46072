import dataclasses
import hashlib
import itertools

import cv2
import numpy as np
import pytest

from data_pipelines import align, host, loaders, parcels, schema
from data_pipelines.align import ARCFACE_112, Alignment
from data_pipelines.crops import fill
from data_pipelines.loaders import Loader
from data_pipelines.plans import (
    NO_AUGMENTATION,
    Augmentation,
    Plan,
    canvas_size,
    on_canvas,
    plain_plan,
    sample_version,
    stack,
)
from data_pipelines.samplers import ClassBalanced, Subset

ROWS = 22
SIZE = 24


class Drawn:
    """Coloured discs; age is the row. One row may have a broken image, every third has no landmarks."""

    def __init__(self, rows=ROWS, broken=None):
        self.rows, self.broken = rows, broken

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        image = np.full((60, 56, 3), 10 * row % 256, np.uint8)
        cv2.circle(image, (28, 30), 20, (255, 8 * row, 0), -1)
        data = cv2.imencode(".jpg", image)[1].tobytes()
        return schema.record(
            f"disc-{row}",
            data[:-300] if row == self.broken else data,
            age=row,
            sigma=row / 10,
            attractiveness=1 + row / 100,
            identity=row % 4,
            landmarks=ARCFACE_112 / 2 if row % 3 else None,
        )

    def column(self, name):
        return np.array([self[row][name] for row in range(self.rows)])


def train(source=None, steps=8, batch_size=8, augmentation=None, seed=3, **options):
    """The first `steps` batches."""
    batches = loaders.train_batches(
        Drawn() if source is None else source,
        batch_size=batch_size,
        image_size=SIZE,
        seed=seed,
        augmentation=augmentation or Augmentation(),
        alignment=Alignment(),
        **options,
    )
    with batches:
        return list(itertools.islice(batches, steps))


def evaluate(source=None, batch_size=8, **options):
    batches = loaders.eval_batches(
        Drawn() if source is None else source, batch_size=batch_size, image_size=SIZE, alignment=Alignment(), **options
    )
    with batches:
        return list(batches)


def canvases(source=None, steps=8, seed=3, **options):
    """The first `steps` batches of canvases and plans."""
    options = {"batch_size": 8, "augmentation": Augmentation()} | options
    source = Drawn() if source is None else source
    with loaders.canvas_batches(source, image_size=SIZE, seed=seed, alignment=Alignment(), **options) as batches:
        return list(itertools.islice(batches, steps))


def plans_only(source=None, steps=8, seed=3, **options):
    """The first `steps` batches of rows and plans."""
    options = {"batch_size": 8, "augmentation": Augmentation()} | options
    source = Drawn() if source is None else source
    with loaders.plan_batches(source, image_size=SIZE, seed=seed, **options) as batches:
        return list(itertools.islice(batches, steps))


def flat(batch):
    """The plan's fields beside the other columns."""
    plan = batch["plan"]._asdict() if "plan" in batch else {}
    return {key: value for key, value in batch.items() if key != "plan"} | plan


def digests(batches):
    rows = map(flat, batches)
    return [hashlib.md5(b"".join(row[key].tobytes() for key in sorted(row))).hexdigest() for row in rows]


def joined(parts):
    """The batches of several processes, put together again."""
    steps = zip(*(map(flat, part) for part in parts))
    return [{key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in steps]


def test_batches_are_as_the_schema_says():
    for batch in (train(steps=1)[0], evaluate()[0]):
        assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
            "image": ("uint8", (8, SIZE, SIZE, 3)),
            "label": ("float32", (8,)),
            "sigma": ("float32", (8,)),
            "identity": ("int32", (8,)),
            "mask": ("float32", (8,)),
            "index": ("int64", (8,)),
        }


def test_labels_belong_to_the_example_that_index_names():
    for batch in train(steps=3):
        np.testing.assert_array_equal(batch["label"], batch["index"])
        np.testing.assert_allclose(batch["sigma"], batch["index"] / 10)
        np.testing.assert_array_equal(batch["identity"], batch["index"] % 4)


def test_target_picks_the_label_and_its_sigma():
    (batch, *_) = evaluate(target="attractiveness")
    np.testing.assert_allclose(batch["label"], 1 + batch["index"] / 100)
    assert np.isnan(batch["sigma"]).all()
    with pytest.raises(ValueError, match="target 'beauty' is not one of age, attractiveness"):
        evaluate(target="beauty")


def test_every_epoch_holds_every_example_once_in_a_new_order():
    rows = np.concatenate([batch["index"] for batch in train(steps=11)])  # 88 = 4 epochs: batches span epochs
    epochs = rows.reshape(4, ROWS)
    assert (np.sort(epochs, axis=1) == np.arange(ROWS)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_and_random_numbers_are_those_of_earlier_versions(monkeypatch):
    """Recorded when there was but one order: a run that was begun then goes on as it was."""
    drawn, sample_plan = {}, loaders.plans.sample_plan

    def spy(rng, *more):
        drawn[int(rng.bit_generator.state["state"]["counter"][3])] = rng.random()
        return sample_plan(rng, *more)

    monkeypatch.setattr(loaders.plans, "sample_plan", spy)
    rows = np.concatenate([batch["index"] for batch in train(steps=3)])
    assert rows.tolist() == [4, 17, 16, 7, 21, 3, 18, 19, 20, 0, 2, 13, 14, 8, 11, 10, 9, 6, 1, 12, 15, 5, 14, 1]
    recorded = [0.09790456206220621, 0.2128028483567186, 0.9748884685734737, 0.7536551124602794]
    np.testing.assert_allclose([drawn[position] for position in range(4)], recorded, rtol=1e-12)


def test_fixed_versions_of_an_example_are_drawn_again_and_again():
    augmentation = Augmentation(versions=3)
    batches = plans_only(augmentation=augmentation, steps=60)
    rows = np.concatenate([batch["row"] for batch in batches])
    matrices = np.concatenate([batch["plan"].matrix for batch in batches])
    side = canvas_size(SIZE, augmentation)
    for row in range(ROWS):
        found = {matrix.tobytes() for matrix in matrices[rows == row]}
        versions = stack([sample_version(3, row, k, SIZE, augmentation) for k in range(3)])
        assert found == {matrix.tobytes() for matrix in on_canvas(versions, SIZE, side).matrix}
    other = plans_only(augmentation=augmentation, steps=60, seed=4)
    assert not {x.tobytes() for x in matrices} & {x.tobytes() for b in other for x in b["plan"].matrix}


def test_a_version_of_a_split_is_the_same_in_every_run():
    augmentation = dataclasses.replace(NO_AUGMENTATION, rotation=10.0)
    plain, zero, again, one = (
        np.concatenate([batch["image"] for batch in evaluate(**more)])
        for more in (
            {},
            *({"augmentation": augmentation}, {"augmentation": augmentation, "batch_size": 4}),
            {"augmentation": augmentation, "version": 1},
        )
    )
    np.testing.assert_array_equal(zero[:ROWS], again[:ROWS])
    assert (zero != plain).any() and (zero != one).any()
    record, plan = Drawn()[5], sample_version(0, 5, 1, SIZE, augmentation)
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    fill(crop, record, SIZE, Alignment(), plan, "antialias")
    np.testing.assert_array_equal(one[5], crop)


def test_balanced_classes_are_those_of_the_target():
    """Six rows of one identity and one of another, no two of one age: the last is 1 of 7 ages, 1 of 2 identities."""
    source, options = Subset(Drawn(), [0, 4, 8, 12, 16, 20, 1]), {"steps": 20, "order": ClassBalanced()}
    by_age, by_identity = (
        np.concatenate([batch["index"] for batch in train(source, target=target, **options)]).tolist().count(6)
        for target in ("age", "identity")
    )
    assert abs(by_age - 160 / 7) < 4.5 * (160 / 7 * 6 / 7) ** 0.5  # below 43
    assert abs(by_identity - 80) < 4.5 * (160 / 4) ** 0.5  # above 51


def test_a_subset_gives_its_own_rows_and_identities():
    batch = train(Subset(Drawn(), [21, 3, 3, 10]), steps=1)[0]
    assert dict(zip(batch["index"].tolist(), batch["label"].tolist())) == {0: 21, 1: 3, 2: 3, 3: 10}
    assert dict(zip(batch["index"].tolist(), batch["identity"].tolist())) == {0: 0, 1: 2, 2: 2, 3: 1}  # were 1, 3, 3, 2


def test_balanced_batches_of_a_subset_are_the_same_after_a_restart_and_with_workers():
    options = {"source": Subset(Drawn(), [*range(0, 22, 2), 4, 4]), "order": ClassBalanced(), "target": "identity"}
    whole = digests(train(steps=6, **options))
    assert len(set(whole)) == 6
    assert digests(train(steps=3, start_step=3, loader=Loader(threads=4), **options)) == whole[3:]
    assert digests(train(steps=4, start_step=2, loader=Loader(workers=2, threads=1), **options)) == whole[2:]
    parts = [train(steps=6, process_index=i, process_count=2, **options) for i in range(2)]
    assert digests(joined(parts)) == whole


def test_an_example_is_augmented_anew_in_every_epoch_but_the_same_way_for_the_same_seed():
    source = Drawn(rows=1)
    first, again, other = (digests(train(source, 4, 1, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert len({*first, *other}) == 8
    assert len(set(digests(train(source, 4, 1, NO_AUGMENTATION)))) == 1


def test_the_kernel_of_the_degradation_is_the_one_asked_for():
    kernels = (Augmentation(resize=resize) for resize in ("antialias", "torch7"))
    one, other = (digests(train(steps=1, augmentation=augmentation)) for augmentation in kernels)
    assert one != other


@pytest.mark.parametrize("threads", [1, 4])
def test_a_restart_goes_on_as_if_there_had_been_none(threads):
    loader = Loader(threads=threads)
    assert digests(train(steps=8))[5:] == digests(train(steps=3, start_step=5, loader=loader))


def test_workers_change_nothing_and_neither_does_a_restart_with_them():
    whole = digests(train(steps=8))
    assert digests(train(steps=5, start_step=3, loader=Loader(workers=2, threads=1))) == whole[3:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_from_the_start_are_the_same_for_any_number_of_workers(workers):
    assert digests(train(steps=8, loader=Loader(workers=workers))) == digests(train(steps=8))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_have_the_batches_of_one(processes):
    def parts(load, **options):
        return [load(process_index=i, process_count=processes, **options) for i in range(processes)]

    assert digests(joined(parts(train, steps=4, start_step=2))) == digests(train(steps=4, start_step=2))
    evaluated = parts(evaluate, batch_size=12)
    assert [len(part) for part in evaluated] == [2] * processes
    assert digests(joined(evaluated)) == digests(evaluate(batch_size=12))


def test_a_batch_that_cannot_be_divided_is_an_error():
    with pytest.raises(ValueError, match="batch_size 8 cannot be divided among 3 processes"):
        train(process_count=3)


def test_evaluation_is_in_order_and_padded_and_drops_nothing():
    batches = evaluate(batch_size=8)
    rows, mask, label = (np.concatenate([batch[key] for batch in batches]) for key in ("index", "mask", "label"))
    assert rows.tolist() == [*range(ROWS), -1, -1]
    assert mask.tolist() == [1] * ROWS + [0] * 2
    np.testing.assert_array_equal(label, [*range(ROWS), 0, 0])
    assert not batches[-1]["image"][-2:].any()
    assert digests(evaluate(batch_size=8, loader=Loader(threads=4))) == digests(batches)


def test_evaluation_of_an_exact_number_of_batches_has_no_padding():
    assert [batch["mask"].min() for batch in evaluate(batch_size=ROWS // 2)] == [1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_and_ends_the_iteration(workers):
    options = {"batch_size": 4, "image_size": SIZE, "alignment": Alignment(), "loader": Loader(workers=workers)}
    with loaders.eval_batches(Drawn(broken=9), **options) as batches:
        assert next(batches)["index"].tolist() == [0, 1, 2, 3]
        assert next(batches)["index"].tolist() == [4, 5, 6, 7]
        with pytest.raises(ValueError, match=r"^disc-9: the image cannot be decoded"):
            next(batches)
        assert next(batches, None) is None


def test_no_examples_is_an_error_for_training_and_nothing_for_evaluation():
    with pytest.raises(ValueError, match="no examples"):
        train(Drawn(rows=0))
    assert evaluate(Drawn(rows=0)) == []


def test_workers_left_open_are_what_the_machine_can_spare(monkeypatch):
    monkeypatch.setattr(loaders, "cores", lambda: 16)
    assert Loader(workers=-1).settled(accelerated=True).workers == 14
    assert Loader(workers=-1).settled(accelerated=False).workers == 0
    assert Loader(workers=3).settled(accelerated=True).workers == Loader(workers=3).settled(False).workers == 3
    monkeypatch.setattr(loaders, "cores", lambda: 1)
    assert Loader(workers=-1).settled(accelerated=True).workers == 0


@pytest.mark.parametrize("fields", [{"workers": -2}, {"threads": 0}, {"buffer": 0}])
def test_loader_fields_out_of_range_are_an_error(fields):
    with pytest.raises(ValueError, match="loader"):
        Loader(**fields)


def test_workers_leave_no_shared_memory_and_batches_outlive_them():
    attached, attach = [], parcels.SharedMemory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcels, "SharedMemory", lambda name: attached.append(attach(name)) or attached[-1])
        batches = train(steps=6, loader=Loader(workers=2, threads=1))
    assert 2 <= len(attached) <= 6
    for segment in attached:
        assert segment.buf is None  # closed
        with pytest.raises(FileNotFoundError):
            attach(segment.name)
    assert all(batch["image"].flags.owndata and batch["image"].any() for batch in batches)


# canvases and plans, to be augmented on a device


def test_batches_for_the_device_are_as_they_say():
    side = canvas_size(SIZE, Augmentation())
    canvas, plan = flat(canvases(steps=1)[0]), flat(plans_only(steps=1)[0])
    columns = {
        "canvas": ("uint8", (8, side, side, 3)),
        "label": ("float32", (8,)),
        "sigma": ("float32", (8,)),
        "identity": ("int32", (8,)),
        "mask": ("float32", (8,)),
        "index": ("int64", (8,)),
    }
    of_plan = {
        "matrix": ("float32", (8, 2, 3)),
        "gray": ("bool", (8,)),
        "degrade": ("int32", (8,)),
        "colour": ("float32", (8, 3)),
        "order": ("int32", (8,)),
        **{"hue": ("float32", (8,)), "hue_after": ("int32", (8,))},
        **{"operation": ("int32", (8, 0)), "level": ("int32", (8, 0)), "place": ("float32", (8, 0, 2))},
    }
    for batch, want in (
        (canvas, columns | of_plan),
        (plan, {"row": ("int32", (8,)), "mask": columns["mask"]} | of_plan),
    ):
        assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == want
    assert plan["mask"].all()


def test_rows_and_plans_are_the_same_in_all_three():
    augmentation = Augmentation(zoom=0.1, shift=0.1)
    options = {"steps": 4, "start_step": 2, "augmentation": augmentation, "order": ClassBalanced()}
    errors = {"its own": [], "another's": []}
    for crops, drawn, plans in zip(train(**options), canvases(**options), plans_only(**options)):
        assert crops["index"].tolist() == drawn["index"].tolist() == plans["row"].tolist()
        for name in ("label", "sigma", "identity", "mask"):
            np.testing.assert_array_equal(crops[name], drawn[name])
        for name, values in drawn["plan"]._asdict().items():
            np.testing.assert_array_equal(values, getattr(plans["plan"], name))
        for found, shift in ((errors["its own"], 0), (errors["another's"], 1)):
            plan_of = zip(*(np.roll(values, shift, axis=0) for values in drawn["plan"]))
            for canvas, plan, image in zip(drawn["canvas"], plan_of, crops["image"]):
                found.append(np.abs(host.execute(canvas, Plan(*plan), SIZE) - image.astype(float)).mean())
    assert np.mean(errors["its own"]) < 2  # interpolated twice, where the loader does it once
    assert np.mean(errors["another's"]) > 10


def test_a_canvas_is_the_plain_crop_with_a_margin():
    plain = np.concatenate([batch["image"] for batch in evaluate()])
    record = Drawn()[1]
    matrix = align.crop_matrix(record["landmarks"], 60, 56, SIZE, Alignment())
    np.testing.assert_array_equal(plain[1], host.execute(record["image"], plain_plan(matrix, SIZE), SIZE))
    margin = (canvas_size(SIZE, Augmentation()) - SIZE) // 2
    assert margin == 3
    for batch in canvases(steps=3):
        inner = batch["canvas"][:, margin:-margin, margin:-margin].astype(int)
        assert np.abs(inner - plain[batch["index"]]).max() <= 1  # OpenCV rounds another way beside another edge
        assert batch["canvas"][:, :margin].any()


@pytest.mark.parametrize("load", [canvases, plans_only])
def test_batches_for_the_device_go_on_after_a_restart_and_in_processes(load):
    whole = digests(load(steps=6))
    assert len(set(whole)) == 6
    assert digests(load(steps=3, start_step=3, loader=Loader(threads=4))) == whole[3:]
    parts = [load(steps=4, start_step=2, process_index=i, process_count=2) for i in range(2)]
    assert digests(joined(parts)) == whole[2:]


@pytest.mark.parametrize("load", [canvases, pytest.param(plans_only, marks=pytest.mark.slow)])
def test_workers_change_nothing_in_batches_for_the_device(load):
    assert digests(load(steps=4, start_step=2, loader=Loader(workers=2, threads=1))) == digests(load(steps=6))[2:]


def test_plans_need_no_picture():
    class Closed(Drawn):
        def __getitem__(self, row):
            raise AssertionError("a record was read")

        def column(self, name):
            return Drawn.column(Drawn(), name)

    assert digests(plans_only(Closed(), order=ClassBalanced())) == digests(plans_only(order=ClassBalanced()))


def test_a_broken_canvas_is_named_and_no_examples_are_an_error():
    with pytest.raises(ValueError, match=r"^disc-9: the image cannot be decoded"):
        canvases(Drawn(broken=9))
    for load in (canvases, plans_only):
        with pytest.raises(ValueError, match="no examples"):
            load(Drawn(rows=0))
    with pytest.raises(ValueError, match="target 'beauty' is not one of"):
        canvases(target="beauty")
