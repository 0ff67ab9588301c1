"""Images for pods, built from what this machine has installed: no registry is asked, and no Docker."""
