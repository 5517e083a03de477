"""MQTT 5: rows from topics by way of a spool on our own disk, and decisions to topics."""
