"""Rows of a task before they are encoded: read from files or the Hub, split, and with numbered classes."""
