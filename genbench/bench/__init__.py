"""`genbench bench`: the share of a run that its network takes, and a plain diffusers loop on the same prompts."""

from genbench.bench.command import main as main
