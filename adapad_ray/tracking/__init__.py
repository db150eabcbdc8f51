"""MLflow, and optionally TensorBoard and Weights & Biases: the only package that imports theirs.

`tracker` is MLflow's part, `writers` that of the others; `store` checks the address of MLflow's store without importing
anything slow.
"""
