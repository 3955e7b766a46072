"""The table of experiments. A config is a function (data, recipe) → Experiment; its docstring says what it gives."""

from experiments.configs.aaf import aaf_tiny
from experiments.configs.dldl_v2 import att_thin, dldl_v2_thin, dldl_v2_tiny

CONFIGS = {config.__name__: config for config in (dldl_v2_thin, dldl_v2_tiny, att_thin, aaf_tiny)}
