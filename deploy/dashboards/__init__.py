"""Grafana dashboards, written from the panels below by ``python -m deploy.dashboards``."""
