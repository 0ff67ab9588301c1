"""MiMo-V2-Flash and its multi-token prediction layers, assembled from ``model_server.layers``."""
