import collections
import itertools
import pickle

import numpy as np
import pytest
from drawn import Squares

from data_pipelines import samplers
from data_pipelines.errors import DataError
from data_pipelines.samplers import ClassBalanced, Everything, Imposed, MinPerIdentity, NShot, Shuffle, Subset


class Columns:
    """A source of labels alone."""

    def __init__(self, **columns):
        self.columns = {name: np.asarray(values) for name, values in columns.items()}
        self.size = len(next(iter(self.columns.values())))
        self.columns = {"identity": np.full(self.size, -1)} | self.columns

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        return {"id": f"row-{row}"} | {name: values[row] for name, values in self.columns.items()}

    def column(self, name):
        return self.columns[name]


def only(name, split):
    raise AssertionError(f"{name}:{split} was opened")


def first(stream, count, start=0):
    return np.array([stream[i] for i in range(start, start + count)])


# orders


@pytest.mark.parametrize("order", [Shuffle(), ClassBalanced()])
def test_position_decides_whatever_was_read_before_and_in_whatever_process(order):
    source = Columns(age=np.float32([3, 3, 3, 40, 40, 77]))
    stream = order.stream(source, "age", seed=5)
    rows = first(stream, 60)
    assert [stream[i] for i in (59, 3, 31)] == rows[[59, 3, 31]].tolist()
    assert (first(pickle.loads(pickle.dumps(stream)), 20, start=40) == rows[40:]).all()
    assert (first(order.stream(source, "age", seed=5), 60) == rows).all()
    assert (first(order.stream(source, "age", seed=6), 60) != rows).any()
    assert len(pickle.dumps(stream)) < 5000
    assert type(stream[0]) is int


def test_balanced_classes_come_alike_and_so_do_their_examples():
    """P = 1 / (C · n_c). Chi-square of 30,000 draws over 100 examples; 99 degrees of freedom, 5 standard deviations."""
    ages = np.random.default_rng(0).permutation(np.float32([5] + [20] * 9 + [60] * 90))
    expected = 30_000 * samplers.class_balanced_probabilities(ages)
    counts = np.bincount(first(ClassBalanced().stream(Columns(age=ages), "age", 1), 30_000), minlength=100)
    assert 99 - 5 * 198**0.5 < (np.square(counts - expected) / expected).sum() < 99 + 5 * 198**0.5


def test_neighbouring_draws_are_independent():
    """Pairs of classes (last, next) come alike: 4 of 9,999 draws, chi-square with 3 degrees of freedom below 26."""
    ages = np.float32([1] * 3 + [90] * 30)
    drawn = (ages[first(ClassBalanced().stream(Columns(age=ages), "age", 2), 10_000)] > 50).astype(int)
    pairs = np.bincount(2 * drawn[:-1] + drawn[1:], minlength=4)
    assert (np.square(pairs - 9999 / 4) / (9999 / 4)).sum() < 26


def test_probabilities_of_the_fact_sheet():
    p = samplers.class_balanced_probabilities(np.repeat([3.0, 7, 50], [1, 9, 90]))
    np.testing.assert_allclose(p[[0, 1, 10]], [0.333333333, 0.037037037, 0.003703704], atol=5e-10)
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_a_class_is_the_nearest_year_and_classes_without_examples_do_not_count():
    p = samplers.class_balanced_probabilities(np.float32([24.4, 24.5, 25.4, 80]))
    np.testing.assert_allclose(p, [1 / 3, 1 / 6, 1 / 6, 1 / 3])
    assert samplers.nearest(np.float32([0, 0.49, 0.5, 99.5, 100])).tolist() == [0, 0, 1, 100, 100]


def test_width_makes_classes_of_scores():
    scores = np.float32([1.0, 1.04, 1.06, 5.0])
    np.testing.assert_allclose(samplers.class_balanced_probabilities(scores, 0.1), [1 / 6, 1 / 6, 1 / 3, 1 / 3])
    drawn = first(ClassBalanced(2.0).stream(Columns(attractiveness=scores), "attractiveness", 0), 400)  # 1 → 2, 5 → 6
    assert abs((drawn == 3).sum() - 200) < 5 * 10
    with pytest.raises(DataError, match="width must be above 0, got 0"):
        ClassBalanced(0)


def test_identities_are_classes_too():
    source = Columns(identity=[4, 4, 4, 4, 4, 4, 4, 9], age=np.full(8, np.nan))
    drawn = first(ClassBalanced().stream(source, "identity", 0), 400)
    assert abs((drawn == 7).sum() - 200) < 5 * 10


@pytest.mark.parametrize(
    "source, told",
    [
        (Columns(age=[3, np.nan, 4]), "1 of 3 examples have no age"),
        (Columns(identity=[-1, 0, -1]), "2 of 3 examples have no identity"),
    ],
)
def test_a_missing_label_cannot_be_balanced(source, told):
    with pytest.raises(DataError, match=told):
        ClassBalanced().stream(source, "age" if "age" in source.columns else "identity", 0)


# subsets


def test_subset_is_a_source():
    source = Squares(9, identities=5)
    subset = Subset(source, [7, 2, 7, 4])
    assert [record["id"] for record in subset] == ["square-7", "square-2", "square-7", "square-4"]
    assert subset.column("age").tolist() == [record["age"] for record in subset]
    # old identities 2, 2, 2, 4
    assert subset.column("identity").tolist() == [record["identity"] for record in subset] == [0, 0, 0, 1]
    assert subset[0]["identity"].dtype == np.int32 and source[7]["identity"] == 2
    assert pickle.loads(pickle.dumps(subset))[3]["id"] == "square-4"


def test_identities_are_numbered_anew_in_their_order_and_the_unknown_stay_so():
    numbers = samplers.renumber(np.array([40, -1, 7, 40, 9], np.int32))
    assert numbers.tolist() == [2, -1, 0, 2, 1] and numbers.dtype == np.int32


# N-shot


def test_everything_is_the_source_itself():
    source = Columns(age=[1.0])
    assert Everything().choose(source, 0, only) == (source, "")


def test_n_shots_are_nested_distinct_and_change_with_seed_and_trial():
    sizes = (3, 6, 24, 99, 1981)
    draws = [samplers.n_shot(1981, n, seed=4, trial=2) for n in sizes]
    assert draws[1].tolist() == [1552, 422, 1661, 893, 464, 1063]  # recorded: a resumed run must draw them again
    for small, large in itertools.pairwise(draws):
        assert set(small) < set(large)
    assert sorted(draws[-1]) == list(range(1981))
    others = [samplers.n_shot(1981, 24, 4, 3), samplers.n_shot(1981, 24, 5, 2), samplers.n_shot(1981, 24, 2, 4)]
    assert len({tuple(sorted(rows)) for rows in [draws[2], *others]}) == 4


def test_every_example_is_drawn_equally_often():
    """Each of 20 is in 5 of 20 draws of 5: 400 trials, 4.5 standard deviations."""
    counts = np.bincount(np.concatenate([samplers.n_shot(20, 5, 0, trial) for trial in range(400)]), minlength=20)
    assert (np.abs(counts - 100) < 4.5 * (400 * 0.25 * 0.75) ** 0.5).all()


def test_n_shot_of_a_stage():
    source = Columns(age=np.arange(50.0), identity=np.arange(50))
    examples, told = NShot(12, trial=1).choose(source, 3, only)
    assert examples.column("age").tolist() == samplers.n_shot(50, 12, 3, 1).tolist()
    assert told == "drawn from 50, trial 1"


@pytest.mark.parametrize(
    "choice, told",
    [
        (NShot(), "n is 0: give 1 to 50"),
        (NShot(51), "n is 51: give 1 to 50"),
        (NShot(3, trial=-1), "trial is -1: give 0 or more"),
        (Imposed(trial=-2), "trial is -2: give 0 or more"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(choice, told):
    with pytest.raises(DataError, match=told):
        choice.choose(Columns(age=np.arange(50.0)), 0, only)


@pytest.mark.parametrize(
    "full, table",
    [
        (2476, {32: (3, 6, 9, 12), 16: (24,), 8: (49,), 4: (99,), 2: (198,), 1: (396, 495, 990, 1981)}),
        (5475, {32: (3, 6, 9, 13, 20, 27), 16: (54,), 8: (109,), 4: (219,), 2: (438,), 1: (876, 1095, 2190, 4380)}),
    ],
)
def test_trials_of_the_paper(full, table):
    """Tables 1 and 2 of Early Adaptation give a standard deviation exactly where there is more than one trial."""
    for count, sizes in table.items():
        assert [samplers.trials(n, full) for n in sizes] == [count] * len(sizes)


# imposed distributions: golden H of the fact sheet


def test_uniform_counts_of_imdb_are_equation_2():
    counts = samplers.imposed_counts("uniform", np.full(368_553, 30.0))
    assert counts.sum() == 1_474_212 and counts.dtype == np.int64 and counts.shape == (101,)
    assert collections.Counter(counts.tolist()) == {14596: 85, 14597: 16}  # 14596.158 each


def test_uniform_counts_of_a_thousand():
    counts = samplers.imposed_counts("uniform", np.full(1000, 30.0))
    assert counts.tolist() == [40] * 61 + [39] * 40


TARGET = np.repeat([20.0, 30, 40], [2, 5, 3])


@pytest.mark.parametrize(
    "budget, expected", [(0, [800, 2000, 1200]), (100, [20, 50, 30]), (1000, [200, 500, 300]), (7, [1, 4, 2])]
)
def test_matched_counts_are_equation_3_or_have_the_budget(budget, expected):
    counts = samplers.imposed_counts("matched", np.full(1000, 30.0), TARGET, budget)
    assert counts[[20, 30, 40]].tolist() == expected and counts.sum() == sum(expected)


def test_matched_counts_of_chalearn():
    """A target age with 73 of 1,981 examples: 54324.82383."""
    like = np.repeat([25.0, 60], [73, 1981 - 73])
    counts = samplers.imposed_counts("matched", np.full(368_553, 30.0), like)
    assert counts[25] in (54324, 54325) and counts.sum() == 4 * 368_553


def test_real_valued_ages_belong_to_the_nearest_year():
    assert samplers.histogram(np.float32([24.5, 25.4, 25.5, 0.2, 100])).nonzero()[0].tolist() == [0, 25, 26, 100]
    counts = samplers.imposed_counts("matched", np.full(10, 25.0), np.float32([24.5, 25.4, 25.5]), 3)
    assert counts[25] == 2 and counts[26] == 1


def test_the_original_distribution_is_the_set_itself_or_its_proportions():
    ages = np.repeat([10.0, 11, 70], [50, 30, 20])
    assert (samplers.imposed_counts("original", ages) == samplers.histogram(ages)).all()
    assert samplers.imposed_counts("original", ages, budget=10)[[10, 11, 70]].tolist() == [5, 3, 2]


@pytest.mark.parametrize("distribution", ["uniform", "matched", "original"])
@pytest.mark.parametrize("budget", [1, 100, 997, 10_000])
def test_counts_are_exact_in_sum_and_within_one_of_the_share(distribution, budget):
    rng = np.random.default_rng(0)
    ages, like = rng.uniform(0, 100, 321), rng.normal(40, 9, 222)
    counts = samplers.imposed_counts(distribution, ages, like if distribution == "matched" else None, budget)
    pattern = {"uniform": np.arange(101.0), "matched": like, "original": ages}[distribution]
    assert counts.sum() == budget
    assert (np.abs(counts - budget * samplers.histogram(pattern) / len(pattern)) < 1).all()


def test_ages_are_filled_by_whole_repetitions_and_a_rest_without_any():
    ages = np.repeat([3.0, 5, 8, 9], [4, 10, 1, 6])
    counts = np.zeros(101, np.int64)
    counts[[3, 5, 8, 99]] = 11, 7, 3, 4
    rows, lost = samplers.fill(ages, counts, np.random.default_rng(0))
    used = np.bincount(rows, minlength=21)
    assert sorted(used[:4]) == [2, 3, 3, 3] and sorted(used[4:14]) == [0] * 3 + [1] * 7
    assert used[14] == 3 and not used[15:].any()
    assert lost[99] == 4 == lost.sum() and rows.dtype == np.int64
    drawn = {tuple(np.bincount(samplers.fill(ages, counts, np.random.default_rng(seed))[0])) for seed in range(9)}
    assert len(drawn) > 3


def opened(target):
    asked = []

    def open_split(name, split):
        asked.append((name, split))
        return target

    return asked, open_split


def test_matched_of_a_stage_opens_the_set_that_it_shall_be_like():
    source = Columns(age=np.repeat(np.float32([20, 30, 41]), [5, 5, 90]))
    asked, open_split = opened(Columns(age=TARGET))
    for like, expected in (
        ("morph@rs_0", ("morph@rs_0", "train")),
        ("synthetic/mugshot:val", ("synthetic/mugshot", "val")),
    ):
        examples, told = Imposed("matched", like, budget=100).choose(source, 0, open_split)
        assert asked.pop() == expected
        assert sorted(examples.column("age").tolist()) == [20] * 20 + [30] * 50  # nobody is 40
        assert told == f"10 different ones, ages matched {like}; nobody is 40 years old, which loses 30.0% of 100"


def test_uniform_of_a_stage_is_four_times_the_set_and_tells_what_is_lost():
    source = Columns(age=np.float32([*range(1, 101), 1, 1, 1, 7]))
    examples, told = Imposed().choose(source, 0, only)
    counts = samplers.histogram(examples.column("age"))
    wanted = samplers.imposed_counts("uniform", source.column("age"))
    assert (counts[1:] == wanted[1:]).all() and wanted.sum() == 416 and counts[0] == 0 < wanted[0]
    assert told == "104 different ones, ages uniform; nobody is 0 years old, which loses 1.2% of 416"


def test_seed_and_trial_choose_which_examples_stand_for_an_age():
    source = Columns(age=np.full(40, 30.0))
    draws = [
        Imposed("original", budget=8, trial=trial).choose(source, seed, only)[0]
        for seed, trial in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    sets = [frozenset(draw.rows.tolist()) for draw in draws]
    assert sets[0] == sets[1] and len(set(sets)) == 3


@pytest.mark.parametrize(
    "choice, ages, told",
    [
        (Imposed("matched"), [30.0], "the matched distribution needs a set whose ages are matched: give like=NAME"),
        (Imposed("uniform", "aaf"), [30.0], "the uniform distribution takes no set to be like"),
        (Imposed(budget=-1), [30.0], "budget must be 0 or more, got -1"),
        (Imposed(), [30.0, np.nan], "1 of 2 examples have no age"),
        (Imposed("matched", "aaf"), [31.0], "no example of any age that is wanted"),
    ],
)
def test_what_cannot_be_imposed_is_refused(choice, ages, told):
    with pytest.raises(DataError, match=told):
        choice.choose(Columns(age=ages), 0, lambda name, split: Columns(age=TARGET))


# identities


def test_identities_with_few_images_are_left_out_and_the_others_numbered_anew():
    source = Columns(identity=[0, 3, 3, 5, 5, 5, -1, -1, -1, 3], age=np.arange(10.0))
    examples, told = MinPerIdentity(3).choose(source, 0, only)
    assert examples.column("age").tolist() == [1, 2, 3, 4, 5, 9]
    assert examples.column("identity").tolist() == [0, 0, 1, 1, 1, 0]
    assert told == "of 10: 2 of 3 identities have 3 or more"
    assert len(MinPerIdentity().choose(source, 0, only)[0]) == 7  # the unknown are nobody
    with pytest.raises(DataError, match="no identity has 4 or more examples"):
        MinPerIdentity(4).choose(source, 0, only)
