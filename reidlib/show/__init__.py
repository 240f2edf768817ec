"""Makes figures, tables and sentences from results. Nothing here trains or writes a file."""
