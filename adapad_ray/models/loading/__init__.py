"""Loading a backbone: its files, their digest, and the recipe by which every worker loads them itself."""
