"""Traces to look at: tables by module and kind, what differs between two, pictures, CSV."""
