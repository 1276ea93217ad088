"""Mistakes that people make, each with a healthy twin that differs in that one thing alone."""
