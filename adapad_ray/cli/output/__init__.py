"""What the command shows: tables, a sweep's progress, and the terminal itself."""
