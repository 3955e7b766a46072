"""Parts of a build on many machines, by Apache Beam (`pip install 'agejax[beam]'`). The result is the same to the byte.

Every worker must see the raw folder and the data folder under the same path (a network disk, or a mounted bucket): a
part is written there whole or not at all, so a pipeline that died, or that runs a part twice, does no harm.
"""

from collections.abc import Callable

from data_pipelines.errors import DataError
from data_pipelines.records.shards import Part


def runner(name: str = "DirectRunner", options: dict[str, str] | None = None) -> Callable:
    """What builders.prepare() takes as `runner`: calls a function for each part in one Beam pipeline.

    name: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, …; options: Beam's own, as
    {"direct_num_workers": "2", "direct_running_mode": "multi_processing"}. Raises DataError where Beam is missing.
    """
    try:
        import apache_beam as beam
    except ImportError:
        raise DataError("Apache Beam is not installed: pip install 'agejax[beam]'") from None
    words = [f"--{key}={value}" for key, value in (options or {}).items()]

    def run(write: Callable[[Part], None], parts: list[Part]) -> None:
        settings = beam.options.pipeline_options.PipelineOptions(words)
        with beam.Pipeline(runner=name, options=settings) as pipeline:
            _ = pipeline | beam.Create(parts) | beam.Reshuffle() | beam.Map(write)

    return run
