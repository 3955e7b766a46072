"""Networks only: pixels in, features and logits out."""
