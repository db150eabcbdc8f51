"""MLflow: the only package that imports mlflow.

`tracker` is what a sweep uses; `store` checks the address of a store without importing anything slow.
"""
