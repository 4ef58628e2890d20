"""SiD (arXiv:2404.04057) and its relatives: students of one or few steps by score identity distillation."""
