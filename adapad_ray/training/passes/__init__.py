"""Passes of a lane through the model."""
