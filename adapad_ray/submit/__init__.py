"""A sweep as a job of a Ray cluster elsewhere."""
