"""Token sequences: texts, prompts, windows."""
