"""Motion Guidance in the host: the sampler, the flow network, the decoder."""
