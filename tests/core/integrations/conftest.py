"""The tokenizer and the trained tiny model of the tests of llm."""

from ...llm.conftest import tiny_folder, tokenizer

__all__ = ["tiny_folder", "tokenizer"]
