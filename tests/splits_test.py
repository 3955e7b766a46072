import collections
import itertools
import random

import pytest

from data_pipelines.errors import DataError
from data_pipelines.splits import fold_protocols, hash_split, k_fold, largest_remainder, random_split

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def names(count: int) -> list[str]:
    return [f"{i:06d}.jpg" for i in range(count)]


def ages(count: int, oldest: int = 60) -> list[int]:
    """Young ones are many, old ones are few, and some ages occur once."""
    rng = random.Random(7)
    return [min(int(rng.expovariate(0.05)), oldest) for _ in range(count)]


def shuffled(keys, *more):
    """Keys and what belongs to them, in another order."""
    rows = list(zip(keys, *more))
    random.Random(1).shuffle(rows)
    return map(list, zip(*rows))


# largest remainder


@pytest.mark.parametrize(
    "weights, total, counts",
    [
        ([1, 1, 1], 10, [4, 3, 3]),  # equal remainders: the first
        ([5, 3, 2], 100, [50, 30, 20]),
        ([0.1, 0.2, 0.7], 10, [1, 2, 7]),  # 0.7 · 10 is above 7 in floating point, 0.1 · 10 + 0.2 · 10 is not
        ([0.29, 0.71], 100, [29, 71]),  # 0.29 · 100 is below 29 in floating point
        ([47, 16, 15.8, 12, 6.1, 3.1], 10, [5, 2, 1, 1, 1, 0]),  # quotas 4.7, 1.6, 1.58, 1.2, 0.61, 0.31
        ([0.7, 0.3], 5, [4, 1]),  # equal remainders, though not for the float64 that these shares are
        ([0, 1, 0], 3, [0, 3, 0]),
        ([1, 2], 0, [0, 0]),
    ],
)
def test_largest_remainder(weights, total, counts):
    assert largest_remainder(weights, total) == counts


def test_largest_remainder_is_exact_where_float64_is_not():
    shares = [1 / 3] * 3
    assert largest_remainder(shares, 3 * 10**17) == [10**17] * 3
    assert sum(largest_remainder([random.Random(3).random() for _ in range(101)], 1_474_212)) == 1_474_212


@pytest.mark.parametrize("weights", [[0, 0], [-1, 2], []])
def test_weights_that_share_nothing_out_are_refused(weights):
    with pytest.raises(DataError, match="weights must be 0 or more, and not all 0"):
        largest_remainder(weights, 3)


# random split


def sizes_of(split) -> dict:
    return dict(collections.Counter(split))


def test_sizes_are_exact_for_shares_and_for_counts():
    keys = names(5475)
    assert sizes_of(random_split(keys, {"train": 0.8, "test": 0.2})) == {"train": 4380, "test": 1095}
    assert random_split(keys, {"train": 4380, "test": 1095}) == random_split(keys, {"train": 0.8, "test": 0.2})
    assert sizes_of(random_split(names(11), {"a": 0.5, "b": 0.25, "c": 0.25})) == {"a": 5, "b": 3, "c": 3}
    assert random_split(["only"], {"train": 1}) == ["train"]
    assert random_split([], SHARES) == []


def test_seed_decides_and_the_order_of_the_keys_does_not():
    keys, strata = names(200), ages(200)
    for given in (None, strata):
        split = random_split(keys, SHARES, 3, given)
        other, other_strata = shuffled(keys, strata)
        assert dict(zip(other, random_split(other, SHARES, 3, given and other_strata))) == dict(zip(keys, split))
        assert random_split(keys, SHARES, 4, given) != split


def test_a_split_is_by_chance():
    """Of two halves of the list, each holds about half of the test part: 4.5 standard deviations."""
    split = random_split(names(2000), {"train": 0.8, "test": 0.2})
    assert abs(split[:1000].count("test") - 200) < 4.5 * (400 * 0.5 * 0.5 * 0.8) ** 0.5


def test_every_stratum_is_split_in_the_shares_and_the_totals_stay_exact():
    for count in (1000, 997, 83):
        keys, strata = names(count), ages(count)
        split = random_split(keys, SHARES, 1, strata)
        totals, held = sizes_of(split), collections.Counter(zip(strata, split))
        assert list(map(totals.get, SHARES)) == largest_remainder(list(SHARES.values()), count)
        for stratum, size in collections.Counter(strata).items():
            for name in SHARES:
                assert abs(held[stratum, name] - size * totals[name] / count) <= 1


def test_small_strata_do_not_all_round_the_same_way():
    """300 strata of one: rounding each alone would put all in train."""
    strata = list(range(300))
    split = random_split(names(300), SHARES, 0, strata)
    assert sizes_of(split) == {"train": 240, "val": 30, "test": 30}
    assert 0.3 < sum(strata[i] for i in range(300) if split[i] == "test") / 30 / 300 < 0.7  # not the last ones


@pytest.mark.parametrize("seed", range(30))
def test_any_strata_and_any_shares_end_even(seed):
    rng = random.Random(seed)
    weights = [rng.random() for _ in range(rng.randint(1, 7))]
    sizes = {f"part-{j}": weight / sum(weights) for j, weight in enumerate(weights)}
    count = rng.randint(1, 120)
    strata = [rng.randint(0, rng.randint(0, 20)) for _ in range(count)]
    split = random_split(names(count), sizes, seed, strata)
    totals, held = sizes_of(split), collections.Counter(zip(strata, split))
    assert [totals.get(name, 0) for name in sizes] == largest_remainder(list(sizes.values()), count)
    for stratum, size in collections.Counter(strata).items():
        assert all(abs(held[stratum, name] - size * totals.get(name, 0) / count) <= 1 for name in sizes)


@pytest.mark.parametrize(
    "sizes, told",
    [
        (
            {"train": 0.8, "test": 0.3},
            r"sizes \(train 0.8, test 0.3\) add up to 1.1: give shares of 1, or counts of 10",
        ),
        ({"train": 8, "test": 3}, "add up to 11"),
        ({}, "add up to 0"),
        ({"train": 1.5, "test": -0.5}, "weights must be 0 or more"),
    ],
)
def test_sizes_that_do_not_add_up_are_refused(sizes, told):
    with pytest.raises(DataError, match=told):
        random_split(names(10), sizes)


@pytest.mark.parametrize("split", [lambda keys: random_split(keys, SHARES), lambda keys: k_fold(keys, 2)])
def test_a_key_listed_twice_is_refused_by_name(split):
    with pytest.raises(DataError, match="b is listed twice"):
        split(["a", "b", "c", "b"])


def test_strata_for_other_examples_are_refused():
    with pytest.raises(DataError, match="2 groups or strata for 3 examples"):
        random_split(names(3), SHARES, strata=[1, 2])
    with pytest.raises(DataError, match="4 groups or strata for 3 examples"):
        k_fold(names(3), 2, groups=[1, 2, 3, 4])


# folds


@pytest.mark.parametrize("count, k", [(10, 5), (23, 5), (5, 5), (7, 2)])
def test_folds_are_equal_to_within_one(count, k):
    folds = collections.Counter(k_fold(names(count), k, 2))
    assert sorted(folds) == list(range(k)) and sum(folds.values()) == count
    assert max(folds.values()) - min(folds.values()) <= 1


def test_strata_are_equal_to_within_one_in_the_folds_and_so_are_the_folds():
    strata = ages(503)
    folds = k_fold(names(503), 5, 0, strata=strata)
    held, whole = collections.Counter(zip(strata, folds)), collections.Counter(folds)
    assert max(whole.values()) - min(whole.values()) <= 1
    for stratum in set(strata):
        counts = [held[stratum, fold] for fold in range(5)]
        assert max(counts) - min(counts) <= 1


def subjects(count: int) -> list[str]:
    """Most have a few photographs, some have many."""
    rng = random.Random(5)
    many = (f"person-{i}" for i in range(count) for _ in range(rng.choice((1, 2, 2, 3, 4, 30))))
    return list(itertools.islice(many, count))


def unevenness(strata, folds, k) -> int:
    """How many more of one stratum are in one fold than in another, at the worst."""
    held = collections.Counter(zip(strata, folds))
    counts = [[held[stratum, fold] for fold in range(k)] for stratum in set(strata)]
    return max(max(row) - min(row) for row in counts)


def test_nobody_is_in_two_folds_and_the_folds_are_balanced():
    groups = subjects(600)
    folds = k_fold(names(600), 5, 1, groups=groups)
    assert len({*zip(groups, folds)}) == len(set(groups)) > 50
    assert unevenness([0] * 600, folds, 5) <= 1  # there are single ones to fill up with


def test_with_groups_and_strata_nobody_is_in_two_folds_and_both_are_nearly_balanced():
    groups = subjects(600)
    strata = [sum(map(ord, group)) % 3 if i % 4 else 3 for i, group in enumerate(groups)]  # a person may be in several
    folds = k_fold(names(600), 5, 1, groups, strata)
    assert len({*zip(groups, folds)}) == len(set(groups))
    assert unevenness([0] * 600, folds, 5) <= 3
    assert unevenness(strata, folds, 5) <= 3 < 12 < unevenness(strata, k_fold(names(600), 5, 1, groups), 5)


def test_a_group_goes_where_there_is_least_of_what_it_has_most_of():
    """Ten young and one old join the twelve old, though one of them makes the old ones very uneven."""
    groups, strata = ["x"] * 12 + ["y"] * 12 + ["z"] * 11, ["young"] * 12 + ["old"] * 12 + ["young"] * 10 + ["old"]
    folds = dict(zip(groups, k_fold(names(35), 2, 0, groups, strata)))
    assert folds["z"] == folds["y"] != folds["x"]


@pytest.mark.parametrize("groups, strata", [(False, False), (False, True), (True, False), (True, True)])
def test_folds_hang_on_the_seed_and_not_on_the_order(groups, strata):
    keys, who, age = names(300), subjects(300), ages(300)

    def folds(keys, who, age, seed=0):
        return dict(zip(keys, k_fold(keys, 3, seed, who if groups else None, age if strata else None)))

    assert folds(*shuffled(keys, who, age)) == folds(keys, who, age) != folds(keys, who, age, seed=1)


@pytest.mark.parametrize("k", [1, 0, 4])
def test_more_folds_than_groups_are_refused(k):
    with pytest.raises(DataError, match=f"cannot make {k} folds of 3 groups"):
        k_fold(names(6), k, groups=["a", "a", "b", "b", "c", "c"])
    with pytest.raises(DataError, match=f"cannot make {k} folds of 3 examples"):
        k_fold(names(3), k)


def test_folds_as_protocols():
    assert fold_protocols("fold", [0, 1, -1, 1], first=1) == {
        "fold_1": ["test", "train", "", "train"],
        "fold_2": ["train", "test", "", "test"],
    }


# by hash


def test_an_example_keeps_its_split_when_the_set_grows():
    few, many = hash_split(names(400), SHARES), hash_split(names(500), SHARES)
    assert all(many[key] == few[key] for key in few)
    counts = sizes_of(many.values())
    assert all(
        abs(counts[name] - 500 * share) < 4.5 * (500 * share * (1 - share)) ** 0.5 for name, share in SHARES.items()
    )


def test_no_split_by_hash_is_empty_while_there_are_keys():
    assert sorted(hash_split(["a", "b", "c"], SHARES).values()) == ["test", "train", "val"]
