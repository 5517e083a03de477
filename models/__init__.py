"""Readers of text: model folders that verify, a runtime for them, a bounded pool, and the keyword baseline."""

from models.artifact import Artifact, load_folder
from models.keywords import keyword_labels
from models.pool import ReadingPool
from models.reader import Reader, open_reader

__all__ = ["Artifact", "Reader", "ReadingPool", "keyword_labels", "load_folder", "open_reader"]
