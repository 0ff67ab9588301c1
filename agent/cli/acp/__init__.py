"""``mimo acp``: conversations inside an editor, by the Agent Client Protocol (https://agentclientprotocol.com).

``agent`` answers the editor and holds its sessions; ``session`` is one conversation, told as the protocol has it.
"""
