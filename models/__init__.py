"""Readers of text: folders that verify, our encoder and a user's own generator, site words, and a bounded pool."""

from models.artifact import Artifact, load_folder
from models.genai import GenaiReader
from models.genai_folder import is_genai_folder
from models.lexicon import Lexicon, lexicon
from models.pool import ReadingPool
from models.reader import Reader, open_reader

__all__ = [
    "Artifact",
    "GenaiReader",
    "Lexicon",
    "Reader",
    "ReadingPool",
    "is_genai_folder",
    "lexicon",
    "load_folder",
    "open_reader",
]
