"""Data sets, protocols, tables and figures: what shows that the method works."""
