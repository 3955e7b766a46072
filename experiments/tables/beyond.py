"""Beyond the papers: one protocol for all objectives, leaks, other data sets, rare ages, intervals, groups, few shots.

Published numbers of the first table are those of the Facial-Age-Estimation-Benchmark's README (Paplham & Franc):
ResNet-50 at 256 px, five splits of 60/20/20; of CLAP2016 (chalearn16 here) and CACD2000 the official one.
"""

import re

from data_pipelines.samplers import trials
from data_pipelines.schema import is_drawn
from experiments.tables.dldl_v2 import thin
from experiments.tables.kinds import Before, Conformal, Number, OfGroup, Row, Run, Table, Tested, Trained

BENCHMARK_SETS = ("agedb", "afad", "cacd2000", "chalearn16", "morph@se_0", "utkface")
CROSS_SETS = ("morph@se_0", "agedb", "cacd2000", "utkface", "aaf")
TAIL, WHOLE = "lae_strong", thin()
SHOTS, DRAWN_SHOTS, FEW_SETS = (3, 6, 12, 24, 49, 99, 198, 396, 990), (3, 12, 49, 198), ("morph@se_0",)
GENDERS, ETHNICITIES = ("female", "male"), ("Black", "White", "Asian", "Hispanic", "Other")
ETHNICITIES_OF = {  # data set → as it names them; none of others but manifest, which may name any
    "morph": (*ETHNICITIES, "American Indian"), "utkface": ("Black", "White", "Asian", "Indian", "Other"),
    "appa_real": ETHNICITIES, "manifest": ETHNICITIES,
}  # fmt: skip
BANDS = tuple(f"mae {band}" for band in ("0-10", "11-20", "21-30", "31-40", "41-50", "51-60", "61-70", "71+"))


def _published(*values: float) -> tuple[Number, ...]:
    return tuple(Number(data, "mae", value) for data, value in zip(BENCHMARK_SETS, values))


def _loss(name: str, *published: float, **options: str) -> Row:
    """A row of OBJECTIVES in the benchmark's recipe."""
    words = tuple(f"--finetune.objective.{option}={value}" for option, value in options.items())
    told = ", ".join((name, *options.values()))
    return Row(told, Trained(Run("benchmark", (f"--finetune.objective={name}", *words))), _published(*published))


LOSSES = Table(
    "losses", "all objectives, one network, one protocol, nobody in two splits", BENCHMARK_SETS, ("mae", "cs5"),
    (
        _loss("DEX", 5.81, 3.14, 3.96, 4.49, 2.81, 4.38),
        _loss("MetricRegression", 6.23, 3.17, 4.06, 4.65, 2.83, 4.72, distance="l1"),
        _loss("ORCNN", 5.78, 3.16, 4.01, 4.13, 2.83, 4.40),
        _loss("LabelDistribution", 5.80, 3.14, 3.96, 4.18, 2.81, 4.39),
        _loss("MeanVariance", 5.85, 3.16, 4.07, 4.28, 2.83, 4.42),
        _loss("SoftLabels", 5.81, 3.14, 3.96, 4.27, 2.81, 4.36),
        _loss("JointLabelDistribution", 5.80, 3.15, 3.96, 4.23, 2.82, 4.42),
        _loss("UnimodalConcentrated", 5.90, 3.20, 4.10, 4.17, 2.78, 4.47),
        _loss("ExpectationRegression"),
        _loss("Ranking"),
        _loss("CORAL"),
        _loss("EuclideanRegression"),
    ),
    source="README of the Facial-Age-Estimation-Benchmark",
)  # fmt: skip

PROTOCOLS = Table(
    "protocols", "the same people in training and test, and not", ("morph@rs_0", "morph@se_0"), ("mae", "cs5"),
    (
        Row("ThinAgeNet", Trained(WHOLE), (Number("morph@rs_0", "mae", 1.969),)),
        Row("ResNet-50", Trained(Run("benchmark")), (Number("morph@se_0", "mae", 2.82),)),
    ),
    toy=("synthetic@by_image", "synthetic"), source="DLDL-v2; README of the Facial-Age-Estimation-Benchmark",
)  # fmt: skip


def cross(sets: tuple[str, ...]) -> Table:
    """Every set's networks on every set's test split; the columns are the sets trained on."""
    rows = tuple(Row(f"tested on {data}", Tested(Run("benchmark"), data)) for data in sets)
    toy = ("synthetic", "synthetic/mugshot")
    return Table("cross", "trained on one set, tested on others", sets, ("mae", "cs5"), rows, toy=toy, made_of=cross)


def _tail(name: str, *words: str, config: str = TAIL) -> Row:
    return Row(name, Trained(Run(config, words, "efficientnet_v2_m")))


LONG_TAIL = Table(
    "long_tail", "remedies for rare ages", ("morph",), ("mae", "sigma", "aar", *BANDS),
    (
        _tail("nothing"),
        _tail("balanced sampling", "--representation.order=ClassBalanced"),
        _tail("inverse frequency", "--representation.weighting=InverseFrequency"),
        _tail(
            "root of inverse frequency", "--representation.weighting=InverseFrequency",
            "--representation.weighting.power=0.5",
        ),
        _tail("label distribution smoothing", "--representation.weighting=SmoothedFrequency"),
        _tail("LAE: balanced classifier", config="lae"),
    ),
)  # fmt: skip


def few_shots(sets: tuple[str, ...]) -> Table:
    """ThinAgeNet, its faces known, fine-tuned on N examples."""
    sizes = DRAWN_SHOTS if is_drawn(sets[0]) else SHOTS
    start = Row("N = 0", Before(WHOLE))
    tuned = (Row(f"N = {n}", Trained(thin(*_few(n)))) for n in sizes)
    return Table("few_shots", "fine-tuning on N examples", sets, ("mae",), (start, *tuned), made_of=few_shots)


def _few(n: int) -> tuple[str, ...]:
    times = trials(n, 5475)
    drawn = (f"--sweep.examples.trial=0..{times - 1}",) if times > 1 else ()
    return ("--finetune.examples=NShot", f"--finetune.examples.n={n}", "--finetune.batch_size=12", *drawn)


INTERVALS = Table(
    "intervals", "split-conformal age intervals", ("morph",), ("coverage", "width"),
    tuple(Row(f"stated {100 * c:g} %", Conformal(WHOLE, c)) for c in (0.8, 0.9, 0.95)),
)  # fmt: skip


def groups(sets: tuple[str, ...]) -> Table:
    """Genders, and the ethnicities that the sets name."""
    known = dict.fromkeys(name for data in sets for name in ETHNICITIES_OF.get(re.split("[@/]", data)[0], ()))
    columns = {"gender": GENDERS, "ethnicity": tuple(known)}
    of_groups = (Row(group, OfGroup(WHOLE, column, group)) for column, some in columns.items() for group in some)
    rows = (Row("everybody", Trained(WHOLE)), *of_groups)
    return Table("groups", "error by group", sets, ("mae", "cs5"), rows, made_of=groups)


TABLES = (LOSSES, PROTOCOLS, cross(CROSS_SETS), LONG_TAIL, few_shots(FEW_SETS), INTERVALS, groups(("morph",)))
