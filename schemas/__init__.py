"""Shapes and names: events, fields, decisions, settings, errors. Imports nothing of ours."""
