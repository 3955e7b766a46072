"""A run repeated with other options, `--sweep.NAME=VALUES`: vectorised or queued, and one table of all trials.

grids.py        combinations of options as plain generators, and the words that set them
names.py        what can be swept, by which name, and how its values are read
vectorised.py   options of the last stage and the seed: trials of one shape are one program
queued.py       any other option: one run after another
table.py page.py   sweep.csv and report.html, the same whichever way the trials ran
"""
