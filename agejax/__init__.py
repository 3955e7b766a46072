"""Facial age and attractiveness estimation in JAX/Flax. Importing the package does not import jax."""

__version__ = "0.1.0"
