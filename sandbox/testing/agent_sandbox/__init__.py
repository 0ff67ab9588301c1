"""A stand-in for the agent-sandbox controller: ``definitions`` of the fields that we use, and what ``controller`` does
with them. It speaks for what we send and for how we wait, not for the controller itself."""
