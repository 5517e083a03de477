"""Made-up input, stated in advance: what a simulator plants, a run must find."""
