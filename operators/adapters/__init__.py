"""The Bytewax skin: state, notification, snapshots. Everything that computes is in `operators.columnar`."""
