"""Small helpers with TransformerLens's names."""

from bezel.names import get_act_name
from bezel.ranks import AnswerRank, test_prompt

__all__ = ["AnswerRank", "get_act_name", "test_prompt"]
