"""Brokers beyond the one in memory, each an extra of its own."""
