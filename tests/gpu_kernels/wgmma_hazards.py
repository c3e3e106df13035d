"""Writes to registers that a wgmma in flight may still read, found in machine code.

wgmma reads operand A from registers while later instructions run; they must not be written before a `wait_group` that
covers it (PTX ISA, "wgmma.mma_async"). ptxas was seen to move the load of the next operand in front of that wait, so
the code is looked at, not the source: in a loop the body is walked twice.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,5}\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_BRANCH = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
_PRODUCT = re.compile(r"[IHQ]GMMA\S*\s+R\d+, R(\d+),")
_WAIT = re.compile(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d+)")
_RESULT = re.compile(r"(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s+R(\d+)\b")
_NO_RESULT = ("ST", "RED", "BAR", "BRA", "SYNCS", "IGMMA", "HGMMA", "QGMMA", "UTMA", "ISETP", "FSETP", "PLOP3")
_OPERAND_REGISTERS = 4


def written(instruction: str) -> set[int]:
    """Registers that it writes."""
    found = _RESULT.match(instruction)
    if not found or found[1].startswith(_NO_RESULT):
        return set()
    wide = 4 if ".128" in found[1] else 2 if ".64" in found[1] or ".WIDE" in found[1] else 1
    return set(range(int(found[2]), int(found[2]) + wide))


def hazards(instructions: Sequence[str]) -> Iterator[str]:
    """Instructions, in order, that write what a product in flight reads."""
    flying: list[set[int]] = []  # operands of committed groups, oldest first
    open_group: set[int] = set()
    for one in instructions:
        if any(written(one) & group for group in (*flying, open_group)):
            yield one
        if product := _PRODUCT.search(one):
            open_group |= set(range(int(product[1]), int(product[1]) + _OPERAND_REGISTERS))
            if "gsb0" in one:
                flying, open_group = [*flying, open_group], set()
        if wait := _WAIT.search(one):
            flying = flying[len(flying) - int(wait[1]) :] if int(wait[1]) < len(flying) else flying


def paths(text: str) -> Iterator[list[str]]:
    """The whole code in a row, and the body of each loop with products twice."""
    code: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        if found := _INSTRUCTION.search(line):
            code.append(found[1])
    yield code
    for place, one in enumerate(code):
        branch = _BRANCH.search(one)
        begin = labels.get(branch[1], place) if branch else place
        body = code[begin : place + 1]
        if begin < place and any(_PRODUCT.search(part) for part in body):
            yield body * 2


def disassembler() -> Path:
    """nvdisasm of the package nvidia-cuda-nvdisasm."""
    from importlib.metadata import files

    found = [file for file in files("nvidia-cuda-nvdisasm") or () if file.stem == "nvdisasm"]
    return Path(str(found[0].locate()))
