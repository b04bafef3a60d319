"""The settings, a module for each group of them in the table."""
