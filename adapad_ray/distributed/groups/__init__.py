"""Worker groups: their processes, in two forms, and what starts and ends them."""
