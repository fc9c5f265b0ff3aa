"""Examples, each a folder with a recipe that runs."""
