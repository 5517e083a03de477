"""Columnar kernels: functions of (state, batch), without Bytewax, clock or I/O."""
