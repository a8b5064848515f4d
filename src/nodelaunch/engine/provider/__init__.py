"""A provider at run time: its driver, its cloud's facts and refusals, its circuit breakers, the health of its hosts."""
