"""Small helpers with TransformerLens's names."""

from bezel.names import get_act_name

__all__ = ["get_act_name"]
