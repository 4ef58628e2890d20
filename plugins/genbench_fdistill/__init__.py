"""f-distill (arXiv:2502.15681): one-step students by matching distributions under any f-divergence."""
