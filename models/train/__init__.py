"""Recipes that make the readers we ship; needs the extra `train`. Nothing in the runtime imports this package."""
