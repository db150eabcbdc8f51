"""Adapters outside of a sweep: complete folders that PEFT's Auto classes load, predictions, and the Hub."""
