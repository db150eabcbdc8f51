"""What a model reads: splits of token sequences, prompts with answers, and windows over long contexts."""
