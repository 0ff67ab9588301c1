"""Images for sandboxes that no container engine makes: brought in from files, unpacked once, used as read-only roots.

``archive`` reads what ``docker save`` writes and OCI image layouts, ``layer`` unpacks, ``store`` keeps and finds.
Nothing here fetches anything.
"""
