"""Where flows meet the outside: one connector a file."""
