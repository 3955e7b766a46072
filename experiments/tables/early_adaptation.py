"""Early Adaptation of Deep Priors in Age Prediction from Face Images: six priors, few examples of a target."""

from collections.abc import Callable
from functools import partial

from data_pipelines.samplers import trials
from data_pipelines.schema import is_drawn
from experiments.configs.early_adaptation import few
from experiments.tables.kinds import Before, Number, Row, Run, Table, Trained

LAP, MORPH = "chalearn15", "morph@caucasian_0"
SIZES = {  # data set → numbers of examples, the last one all of them
    LAP: (3, 6, 9, 12, 24, 49, 99, 198, 396, 495, 990, 1981),
    MORPH: (3, 6, 9, 13, 20, 27, 54, 109, 219, 438, 876, 1095, 2190, 4380),
}
WHOLE = {LAP: 2476, MORPH: 5475}  # what the shares are of that decide how often a fine-tuning is repeated
DRAWN_SIZES = (3, 24, 198)
BUDGETS = (100, 1000, 10_000)
MODELS = {  # row → config, published weights, the stage that they stand for
    "DEX original": ("early_adaptation_dex", "dex", "prior"),
    "DEX uniform": ("early_adaptation_uniform", "dex", "prior"),
    "DEX IMDB": ("early_adaptation_imdb", "dex", "prior"),
    "DEX matched": ("early_adaptation_matched", "dex", "prior"),
    "VGG-Face": ("early_adaptation_vgg_face", "vgg_face", "pretrain"),
    "VGG-16": ("early_adaptation_vgg16", "vgg16", ""),
}
PUBLISHED = {  # MAE
    LAP: {
        "DEX original": {0: 5.484, 12: 4.241, 1981: 3.294},
        "DEX uniform": {0: 10.007, 12: 4.315, 1981: 3.294},
        "DEX matched": {0: 4.289, 12: 4.173, 1981: 3.318},
        "VGG-Face": {0: 19.626, 12: 10.99, 1981: 4.423},
    },
    MORPH: {"DEX original": {0: 4.708, 4380: 2.768}, "DEX matched": {0: 4.220, 4380: 2.691}},
}


def repeats(n: int, data: str) -> int:
    """How often the paper fine-tunes on n examples."""
    return trials(n, WHOLE.get(data, WHOLE[LAP]))


def _run(model: str, *words: str) -> Run:
    config, weights, instead_of = MODELS[model]
    return Run(config, words, weights, instead_of, needs=(instead_of or "weights", "impose"))


def _tuned(model: str, n: int, data: str, *words: str) -> Before | Trained:
    """n examples, as often as the paper draws them; 0: the prior as it is."""
    if n == 0:
        return Before(_run(model, *words))
    times = repeats(n, data)
    drawn = (f"--sweep.examples.trial=0..{times - 1}",) if times > 1 else ()
    return Trained(_run(model, *words, *few(n, data), *drawn))


def _sizes(data: str) -> tuple[int, ...]:
    return DRAWN_SIZES if is_drawn(data) else SIZES.get(data, SIZES[LAP])


def few_shot(name: str, number: str, data: tuple[str, ...]) -> Table:
    """Every prior with every number of examples; the sizes are those of the first data set."""
    first = data[0]
    rows = [
        Row(f"{model}, N = {n}", _tuned(model, n, first), _published(first, model, n))
        for model in MODELS
        for n in (0, *_sizes(first))
    ]
    return _table(
        name, "priors, and numbers of examples of the target", data, rows, number, partial(few_shot, name, number)
    )


def _published(data: str, model: str, n: int) -> tuple[Number, ...]:
    value = PUBLISHED.get(data, {}).get(model, {}).get(n)
    return (Number(data, "mae", value),) if value else ()


def budgets(name: str, number: str, data: tuple[str, ...]) -> Table:
    """So many examples of IMDB in the target's proportions are imposed; "all" is four times the set."""
    first = data[0]
    sizes = _sizes(first)
    rows = [
        Row(f"M = {budget or 'all'}, N = {n}", _tuned("DEX matched", n, first, f"--impose.examples.budget={budget}"))
        for budget in (*BUDGETS, 0)
        for n in (0, sizes[len(sizes) // 4], sizes[-1])
    ]
    return _table(name, "budgets of imposing the target's ages", data, rows, number, partial(budgets, name, number))


def _table(
    name: str, title: str, data: tuple[str, ...], rows: list[Row], number: str, made_of: Callable[..., Table]
) -> Table:
    return Table(name, title, data, ("mae",), tuple(rows), number, ("synthetic/mugshot",), "its tables", made_of)


TABLES = (
    few_shot("lap", "1", (LAP,)),
    few_shot("morph", "2", (MORPH,)),
    budgets("lap_budgets", "3", (LAP,)),
    budgets("morph_budgets", "4", (MORPH,)),
)
