"""From a sweep's file to its cells: exact parameters per method and budget, gaps, and the order of cells. Trains nothing.

A *cell* is one training run: one label, budget, hyperparameters and seed. A *label* is a method variant, a key of `methods` in
the sweep's file such as `lora/qv`. A *gap* is a (label, budget) pair that cannot exist. A *wave* is a list of cells
that can be computed side by side.
"""
