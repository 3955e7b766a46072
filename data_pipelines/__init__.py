"""Pixels and years: records on disk, alignment, augmentation plans, loaders. Never imports jax."""
