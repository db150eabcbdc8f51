"""From what a user names to tokenised splits: catalog, files, splits, encoding."""
