"""One working plugin per kind: what `genbench new-plugin` copies with `Newname` and `newname` replaced."""
