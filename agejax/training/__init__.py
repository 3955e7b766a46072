"""One stage of training: state, step, loop, checkpoints, evaluation."""
