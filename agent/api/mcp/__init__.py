"""The service as a server of tools for other agents, by the Model Context Protocol.

``tools`` says what there is, ``server`` speaks the protocol (with the package ``mcp``), ``route`` is its address. Every
call is a request to the REST API, made within this process as its caller: keys, projects, scopes, rates, errors and the
audit log are those of REST.
"""
