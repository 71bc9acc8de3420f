"""Small helpers with TransformerLens's names.

>>> from bezel.utils import get_act_name
>>> get_act_name("resid_post", 4)
'blocks.4.hook_resid_post'
"""

from bezel.names import get_act_name
from bezel.ranks import AnswerRank, test_prompt

__all__ = ["AnswerRank", "get_act_name", "test_prompt"]
