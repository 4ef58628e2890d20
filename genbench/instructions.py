"""The processor's instruction sets, and what they mean for 8-bit integers.

VNNI and AMX add up products of 8 bits in 32. x86 processors without them add pairs of products u8 x s8 up in 16 bits
(`vpmaddubsw`), which saturate beyond 32767: 255 * 127 twice is 64770. With weights of 7 bits nothing saturates.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_tile",),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
}
"""Names that users know, and the flags of /proc/cpuinfo that mean them."""
WIDE = (("AMX", "amx_int8"), ("AVX-512 VNNI", "avx512_vnni"), ("AVX VNNI", "avx_vnni"))
NARROW = (("AVX-512", "avx512bw"), ("AVX2", "avx2"))
LIMITS = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Values of ONEDNN_MAX_CPU_ISA at which its kernels use neither VNNI nor AMX."""
INFO = Path("/proc/cpuinfo")


def text() -> str:
    """/proc/cpuinfo; empty where there is none."""
    return INFO.read_text(encoding="utf-8", errors="replace") if INFO.is_file() else ""


def flags() -> frozenset[str] | None:
    """The processor's flags; None where the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text(), re.M)
    return frozenset(found[1].split()) if found else None


def sets() -> dict[str, bool | None]:
    """Whether each of INSTRUCTIONS is here; None where the system does not tell."""
    here = flags()
    return {name: None if here is None else bool(here & set(any_of)) for name, any_of in INSTRUCTIONS.items()}


def int8() -> str:
    """The instruction set that products of 8-bit integers run on, "" where it is not known."""
    here = flags() or frozenset()
    known = NARROW if limited() else (*WIDE, *NARROW)
    return next((name for name, flag in known if flag in here), "")


def limited() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA keeps kernels from VNNI and AMX."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in LIMITS


def int8_saturates() -> bool:
    """Whether sums of 8-bit products saturate here: on x86, unless the processor is known to have VNNI or AMX."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and int8() not in [name for name, _ in WIDE]
