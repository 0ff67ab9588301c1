"""Tasks for programs that chat as with OpenAI's API: a model is a profile, a conversation is a task.

``shapes`` is what goes over the wire, ``models`` which names there are, ``conversation`` which task a request speaks
to, ``telling`` a task's log as an answer, ``answer`` follows that log, ``route`` is the address.
"""
