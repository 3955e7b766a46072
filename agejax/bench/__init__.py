"""`python -m agejax bench`: how fast it is here, every figure beside its peer's in the same run."""

import traceback
from collections.abc import Callable, Iterable, Iterator

from agejax.bench import detect, device, floor, loader, step, train, trials
from agejax.bench.rounds import MODELS, WAYS, Row, Settings
from data_pipelines.errors import UserError

BENCHES: dict[str, Callable[[Settings], Iterator[Row | str]]] = {
    "floor": floor.measure,
    "step": step.measure_training,
    "inference": step.measure_inference,
    "train": train.measure,
    "trials": trials.measure,
    "loader": loader.measure,
    "detect": detect.measure,
}


def run(names: Iterable[str], settings: Settings, report: Callable[[str], None] = print) -> Iterator[Row]:
    """The rows of the named benches as they are measured; remarks, and which bench is at work, go to `report`.

    Raises UserError, before anything is measured or where the data set is missing. A bench that stops for another
    reason is told, and the next one begins.
    """
    names = list(names)
    _check(names, settings)
    for name in names:
        report(f"{name} …")
        try:
            for found in BENCHES[name](settings):
                if isinstance(found, str):
                    report(found)
                else:
                    yield found
        except UserError:
            raise
        except Exception as error:
            traceback.print_exc()
            report(f"{name} stopped: {device.in_one_line(error)}")
        device.release()


def _check(names: list[str], settings: Settings) -> None:
    from agejax.models.network import BACKBONES, DTYPES

    offered = {
        "bench": (names, BENCHES),
        "model": (settings.models, BACKBONES),
        "dtype": (settings.dtypes, DTYPES),
        "way of torch": (settings.peers, WAYS),
    }
    for kind, (given, known) in offered.items():
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"no {kind} {unknown[0]!r}: there are {', '.join(known)}")
    for word in settings.inference:
        if word != "best" and not (word.isdecimal() and int(word) > 0):
            raise UserError(f"inference takes batch sizes and best, got {word!r}")
    if not settings.seconds > 0:
        raise UserError(f"seconds must be above 0, got {settings.seconds:g}")
    if settings.batch < 0:
        raise UserError(f"batch must be above 0, got {settings.batch}")
    smallest = max(BACKBONES[model].min_image_size for model in settings.models or MODELS)
    if settings.size < smallest:
        raise UserError(f"size must be {smallest} or more for these models, got {settings.size}")
