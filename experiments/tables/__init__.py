"""The papers' tables: their rows and published numbers as data, one file a paper, and what carries them out."""
