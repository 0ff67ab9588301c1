"""The service inside an editor, by the Agent Client Protocol over WebSockets.

``route`` is its address, ``agent`` answers one editor, ``session`` is one conversation: a task, and those that it goes
on in. What changes anything is a request to the REST API, made within this process as the editor's user
(``agent.api.inward``). A connection holds nothing: who comes back loads the session.
"""
