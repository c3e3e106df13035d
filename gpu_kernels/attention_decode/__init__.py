"""Times torch's attention of one decode step on a GPU."""
