"""Operators: what is computed on the way from rows to decisions. Pure columnar kernels, and a thin Bytewax skin."""
