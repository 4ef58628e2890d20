"""What the processor's flags mean for products of 8-bit integers."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from genbench import doctor, instructions


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of /proc/cpuinfo, on x86 and with nothing limited."""
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(instructions, "INFO", info)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return info


@pytest.mark.parametrize(
    ("flags", "int8", "saturates"),
    [
        ("avx2 avx512f avx512bw avx512_vnni amx_tile amx_int8", "AMX", False),
        ("avx2 avx512f avx512bw avx512_vnni avx_vnni", "AVX-512 VNNI", False),
        ("avx2 avx_vnni", "AVX VNNI", False),
        ("avx2 avx512f avx512bw", "AVX-512", True),
        ("avx2", "AVX2", True),
        ("sse4_1", "", True),
    ],
)
def test_what_integers_run_on(processor: Path, flags: str, int8: str, saturates: bool) -> None:
    processor.write_text(f"model name : Some CPU\nflags\t\t: fpu {flags}\n")
    assert (instructions.int8(), instructions.int8_saturates()) == (int8, saturates)
    assert instructions.sets()["AVX2"] is ("avx2" in flags.split())
    told = doctor.processor()
    assert told["name"] == "Some CPU" and ("7 bits" in told["int8"]) is saturates


def test_a_limit_on_instructions_counts(processor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor.write_text("flags : avx2 avx512bw avx512_vnni\n")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert (instructions.int8(), instructions.int8_saturates()) == ("AVX-512", True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert not instructions.int8_saturates()


def test_where_the_system_does_not_tell(processor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert instructions.flags() is None and set(instructions.sets().values()) == {None}
    assert instructions.int8() == "" and instructions.int8_saturates()
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert not instructions.int8_saturates()
