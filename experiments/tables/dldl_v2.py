"""DLDL-v2: label distribution and expectation (Gao et al., IJCAI 2018, and its journal version, arXiv 2007.01771)."""

from experiments.tables.kinds import Elsewhere, Network, Number, Row, Run, Table, Trained, TwoStage, numbers

AGES = ("chalearn15", "chalearn16", "morph@rs_0")
FACES = ("--pretrain.data=ms_celeb_1m",)
PLAIN = tuple(
    f"--finetune.augmentation.{name}=0" for name in ("flip", "gray", "rotation", "brightness", "contrast", "saturation")
)
NO_AUGMENTATION = (*PLAIN, "--finetune.augmentation.degrade=1")
LAMBDAS = (0.01, 0.1, 1.0, 10.0)
STEPS = (4.0, 2.0, 1.0, 0.5, 0.25)


def thin(*words: str) -> Run:
    return Run("dldl_v2_thin", (*FACES, *words))


def _objective(name: str, **options: str) -> Run:
    words = [f"--finetune.objective.{option}={value}" for option, value in options.items()]
    return thin(f"--finetune.objective={name}", *words)


def _ages(mae15: float, mae16: float, morph: float) -> tuple[Number, ...]:
    return tuple(Number(data, "mae", value) for data, value in zip(AGES, (mae15, mae16, morph)))


def _fold(number: int, mae: float, pearson: float) -> tuple[Number, ...]:
    return numbers(f"scut_fbp5500@cv_{number}", mae=mae, pearson=pearson)


def _swept(name: str, values: tuple[float, ...], words: str, **published: float) -> tuple[Row, ...]:
    """One run for all values of an option."""
    run = thin(f"--sweep.{name}={','.join(f'{value:g}' for value in values)}")
    known = {value: numbers("chalearn15", **published) for value in (1.0,)}
    return tuple(Row(f"{words} = {value:g}", Trained(run, ((name, value),)), known.get(value, ())) for value in values)


COMPARISON = Table(
    "comparison", "age: the whole system beside others", AGES, ("mae", "epsilon_error"),
    (
        Row("human", Elsewhere(), (Number("chalearn15", "epsilon_error", 0.34), Number("morph@rs_0", "mae", 6.30))),
        Row("DEX", Elsewhere(), (Number("chalearn15", "mae", 5.369), Number("morph@rs_0", "mae", 3.25))),
        Row(
            "DEX, IMDB-WIKI", Elsewhere(),
            (*numbers("chalearn15", mae=3.252, epsilon_error=0.282), Number("morph@rs_0", "mae", 2.68)),
        ),
        Row(
            "DLDL", Elsewhere(),
            (*numbers("chalearn15", mae=3.51, epsilon_error=0.31), Number("morph@rs_0", "mae", 2.42)),
        ),
        Row("OR-CNN", Elsewhere(), numbers("morph@rs_0", mae=3.27)),  # 3.34 in the conference version
        Row("Ranking-CNN", Elsewhere(), numbers("morph@rs_0", mae=2.96)),
        Row("LDAE", Elsewhere(), (Number("chalearn16", "epsilon_error", 0.241), Number("morph@rs_0", "mae", 2.35))),
        Row(
            "TinyAgeNet", Trained(Run("dldl_v2_tiny", FACES)),
            (
                *numbers("chalearn15", mae=3.427, epsilon_error=0.301),
                *numbers("chalearn16", mae=3.765, epsilon_error=0.291),
                *numbers("morph@rs_0", mae=2.291),
            ),
        ),
        Row(
            "ThinAgeNet", Trained(thin()),
            (
                *numbers("chalearn15", mae=3.135, epsilon_error=0.272),
                *numbers("chalearn16", mae=3.452, epsilon_error=0.267),
                *numbers("morph@rs_0", mae=1.969),
            ),
        ),
    ),
    source="both versions of the paper",
)  # fmt: skip

COST = Table(
    "cost", "parameters, and one forward pass of 32 images", ("any",), ("parameters", "forward"),
    (
        Row("VGG-16, 101 labels", Network("vgg16"), numbers("any", parameters=134.6)),
        Row("ThinAgeNet", Network("thin"), numbers("any", parameters=3.7)),
        Row("TinyAgeNet", Network("tiny"), numbers("any", parameters=0.9)),
    ),
    toy=("any",), source="journal",
)  # fmt: skip

ATTRACTIVENESS = Table(
    "attractiveness", "attractiveness", ("scut_fbp@rs_0", "cfd/main@rs_0"), ("mae", "rmse", "pearson"),
    (
        Row(
            "ThinAttNet", Trained(Run("att_thin", FACES)),
            (
                *numbers("scut_fbp@rs_0", mae=0.212, rmse=0.273, pearson=0.930),
                *numbers("cfd/main@rs_0", mae=0.364, rmse=0.472, pearson=0.766),
            ),
        ),
        Row("TinyAttNet", Trained(Run("att_tiny", FACES))),
    ),
    source="journal",
)  # fmt: skip

FOLDS = Table(
    "scut_fbp5500", "attractiveness, five folds", tuple(f"scut_fbp5500@cv_{k}" for k in range(1, 6)),
    ("mae", "pearson"),
    (
        Row(
            "ThinAttNet", Trained(Run("att_thin", FACES)),
            (
                *_fold(1, 0.173, 0.943), *_fold(2, 0.172, 0.940), *_fold(3, 0.179, 0.939), *_fold(4, 0.178, 0.940),
                *_fold(5, 0.169, 0.948),
            ),
        ),
    ),
    source="a comment in the authors' beauty_evaluation.m",
)  # fmt: skip

POOLING = Table(
    "pooling", "augmentation and pooling", ("chalearn15",), ("mae",),
    (
        Row("ThinAgeNet", Trained(thin()), numbers("chalearn15", mae=3.135)),
        Row("no augmentation", Trained(thin(*NO_AUGMENTATION)), numbers("chalearn15", mae=3.399)),
        Row("GAP", Trained(thin("--model.pooling=gap")), numbers("chalearn15", mae=3.210)),
    ),
    source="journal",
)  # fmt: skip

SINGLE_STAGE = Table(
    "single_stage", "objectives, one network and schedule", ("chalearn15",), ("mae", "epsilon_error"),
    (
        Row("MR (l2)", Trained(_objective("MetricRegression", distance="l2")), numbers("chalearn15", mae=3.665)),
        Row("MR (l1)", Trained(_objective("MetricRegression", distance="l1")), numbers("chalearn15", mae=3.655)),
        Row("DEX", Trained(_objective("DEX")), numbers("chalearn15", mae=3.558)),
        Row("Ranking", Trained(_objective("Ranking")), numbers("chalearn15", mae=3.365)),
        Row("ER (l1)", Trained(_objective("ExpectationRegression")), numbers("chalearn15", mae=3.287)),
        Row("DLDL", Trained(_objective("LabelDistribution")), numbers("chalearn15", mae=3.228)),
        Row("DLDL-v2", Trained(thin()), numbers("chalearn15", mae=3.135, epsilon_error=0.272)),
    ),
    source="journal",
)  # fmt: skip

TWO_STAGE = Table(
    "two_stage", "features first, then a linear learner", AGES, ("mae",),
    (
        Row("BIF, SVR", TwoStage(thin(), "bif", "svr"), _ages(6.832, 9.225, 4.303)),
        Row("BIF, OHRank", TwoStage(thin(), "bif", "ohrank"), _ages(6.403, 7.680, 3.841)),
        Row("BIF, BFGS-LDL", TwoStage(thin(), "bif", "ldl"), _ages(6.441, 7.626, 3.883)),
        Row("CNN, SVR", TwoStage(thin(), "cnn", "svr"), _ages(5.333, 6.348, 4.370)),
        Row("CNN, OHRank", TwoStage(thin(), "cnn", "ohrank"), _ages(4.202, 4.668, 3.919)),
        Row("CNN, BFGS-LDL", TwoStage(thin(), "cnn", "ldl"), _ages(4.037, 4.457, 3.865)),
    ),
    source="journal",
)  # fmt: skip

LAMBDA = Table(
    "lambda", "weight λ of the expectation's error", ("chalearn15",), ("mae", "epsilon_error"),
    _swept("objective.lambda_", LAMBDAS, "λ", mae=3.135, epsilon_error=0.272), source="journal",
)  # fmt: skip

LABEL_STEP = Table(
    "label_step", "step Δl of the label grid", ("chalearn15",), ("mae", "epsilon_error"),
    _swept("objective.grid.step", STEPS, "Δl", mae=3.135, epsilon_error=0.272), number="7", source="journal",
)  # fmt: skip

TABLES = (
    COMPARISON, COST, ATTRACTIVENESS, FOLDS, POOLING, SINGLE_STAGE, LABEL_STEP, TWO_STAGE, LAMBDA
)  # fmt: skip
