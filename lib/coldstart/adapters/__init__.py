"""The only place that imports monailabel: each adapter translates, and decides nothing."""
