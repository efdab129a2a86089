"""Picture to trajectory: the noise levels, DDIM inversion and its refinements, and the measures of a good one."""
