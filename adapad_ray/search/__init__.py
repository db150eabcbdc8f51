"""The search space, Optuna studies, and their driver on Ray Tune."""
