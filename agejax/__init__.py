"""Facial age and attractiveness estimation in JAX/Flax. Importing the package does not import jax."""

import importlib

__version__ = "0.1.0"


def __getattr__(name: str):
    """`agejax.convert` and other parts are imported when they are first used."""
    try:
        return importlib.import_module(f"agejax.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"agejax.{name}":  # a part's own import failed
            raise
        raise AttributeError(f"module 'agejax' has no attribute {name!r}") from None
