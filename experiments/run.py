"""`python experiments/run.py --config=dldl_v2_thin`: train the stages, evaluate, report."""

import sys

from data_pipelines.errors import UserError
from experiments.command_line import parse


def main(argv: list[str]) -> int:
    """The exit code: 0, 1 for a run that failed, 2 for a mistake in the words or the data, 128 + n after signal n."""
    try:
        experiment = parse(argv)
        if experiment is None:
            return 0
        from agejax.training.cluster import joined
        from experiments.sweeps.queued import run

        with joined(experiment.cluster):  # nothing may be computed before
            return run(experiment, argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
