"""The REST API as calls of Python: ``operations`` is written by ``deploy.client`` from the API's description."""
