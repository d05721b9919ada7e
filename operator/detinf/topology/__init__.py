"""What is expected of the hardware, and what identity it gives an engine."""
