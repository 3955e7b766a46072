"""What a paper's table is made of: rows, their published numbers, and how each row is measured here. Plain data."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Run:
    """What is trained: `python experiments/run.py --config=CONFIG WORDS`."""

    config: str
    words: tuple[str, ...] = ()
    weights: str = ""
    """Name of the published weights that the first stage starts from, as "dex"; empty: random ones."""
    instead_of: str = ""
    """Name of the stage whose work these weights are: it is trained here where they are not at hand."""
    needs: tuple[str, ...] = ()
    """Without which the row would not be what it is called: a stage's name, or "weights"."""


@dataclass(frozen=True)
class Trained:
    """The answers of the finished run on the test split."""

    run: Run
    values: tuple[tuple[str, float], ...] = ()
    """Of a sweep, the trials that have these: (option, value)."""


@dataclass(frozen=True)
class Before:
    """The answers of the weights that the run's last stage starts from, as they are: 0 examples of the target."""

    run: Run


@dataclass(frozen=True)
class Fused:
    """The mean of the answers of several runs."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class TwoStage:
    """A linear learner on features that were not trained for the label."""

    run: Run
    """Whose stage before the last gives the trunk, for features="cnn"."""
    features: Literal["bif", "cnn"]
    learner: Literal["svr", "ohrank", "ldl"]


@dataclass(frozen=True)
class Network:
    """What a network costs; nothing is trained."""

    model: str
    """A row of agejax.models.network.BACKBONES."""


@dataclass(frozen=True)
class Tested:
    """The answers of the finished run on the test split of another data set."""

    run: Run
    data: str


@dataclass(frozen=True)
class OfGroup:
    """The answers of the finished run for those test examples of which the set says this."""

    run: Run
    column: Literal["gender", "ethnicity"]
    group: str


@dataclass(frozen=True)
class Conformal:
    """Intervals around the run's answers, fitted on the validation split, tested on the test split."""

    run: Run
    coverage: float
    """Stated, in (0, 1)."""


@dataclass(frozen=True)
class Elsewhere:
    """Others' work: its published number stands in the table for comparison and is not run here."""


Fill = Trained | Before | Fused | TwoStage | Network | Tested | OfGroup | Conformal | Elsewhere


@dataclass(frozen=True)
class Number:
    """A published number, as printed."""

    data: str
    """Data set of ours that holds the paper's, as "morph@rs_0"."""
    metric: str
    """Key of MEASURES in measures.py."""
    value: float


@dataclass(frozen=True)
class Row:
    name: str
    fill: Fill
    published: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table of a paper. Every row is measured on every data set, by every metric."""

    name: str
    title: str
    data: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    number: str = ""
    """Of the table in the paper, where it is known."""
    toy: tuple[str, ...] = ("synthetic",)
    """The drawn sets that stand for them in --toy."""
    source: str = ""
    """Where the published numbers stand."""
    made_of: "Callable[[tuple[str, ...]], Table] | None" = None
    """The table for other data sets, where its rows name them."""

    def on(self, data: tuple[str, ...]) -> "Table":
        """The same rows on other data sets."""
        return self.made_of(data) if self.made_of else dataclasses.replace(self, data=data)


def numbers(data: str, **values: float) -> tuple[Number, ...]:
    """Published numbers of one data set: numbers("chalearn15", mae=3.135, epsilon_error=0.272)."""
    return tuple(Number(data, metric, value) for metric, value in values.items())
