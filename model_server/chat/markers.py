"""The markers that steer a conversation. Each is one token, and only the template and the model may write it."""

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
THINK = "<think>"
END_THINK = "</think>"
TOOL_CALL = "<tool_call>"
END_TOOL_CALL = "</tool_call>"

CONTROL_MARKERS = (IM_START, IM_END, THINK, END_THINK, TOOL_CALL, END_TOOL_CALL)
"""In the order of their ids in a vocabulary of ours; a foreign vocabulary is asked by name."""
