"""What can go wrong when images are made."""


class ImageError(Exception):
    """The message says what to do."""
