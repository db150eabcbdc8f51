"""One file per task type."""
