"""Plans a sweep without training: its cells, their parameters, its gaps, and the order in which cells are computed.

A *cell* is one training run: one label, budget, seed and set of hyperparameters. A *label* is a method variant: a key
of `methods` in the sweep's file, such as `lora/qv`. A *gap* is a (label, budget) pair that cannot exist. A *wave* is a
list of cells that can be computed side by side.
"""
