"""What of the chart in ``helm/`` is written by programs: its values, their schema, and what keeps sandboxes."""
