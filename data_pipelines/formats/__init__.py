"""How data sets are written down: lists, tables and record files, each in the forms that copies have."""
