"""How a prepared set is written and what is known of it: parts, ArrayRecord files, the index and the summary."""
