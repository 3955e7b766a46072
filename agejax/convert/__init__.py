"""Foreign weights."""
