"""The book's figures. `look` is how they all look; each other module draws some of them. Run by ../figures.py."""
