"""Address maps: which bit of an address chooses the channel, the bank, the column and the row.

A map is a list of fields above the byte-in-burst bits, lowest first: `column:2` takes the two lowest column bits
that are left, `column` all that are left. A number of channels that is no power of two is taken out by division
where `channel` stands. Named maps interleave channels every 64 bytes:

bgi         bank groups below the rest of the column, banks above it: neighbours change the bank group
rbc         a whole row before the bank group changes
robaracoch  row, bank, bank group, pseudo-channel, column from the top (Ramulator's default)
mop4clxor   four bursts of a row, then pseudo-channels, groups and banks; their bits, then the row's, are XORed with
            the column's (Ramulator's; after minimalist open page, Kaseridis et al., MICRO 2011)
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from accel.fault import nearest

FIELDS = ("channel", "pseudo_channel", "bank_group", "bank", "column", "row")
REQUEST_BYTES = 64  # the interleave of the named maps
MapName = Literal["bgi", "rbc", "robaracoch", "mop4clxor"]
MAP_NAMES: tuple[str, ...] = get_args(MapName)
MAX_BURSTS = 1 << 32  # what the controller can count
Xor = tuple[str, int, str, int]


def _address_field(entry: str) -> str:
    name, colon, bits = entry.partition(":")
    if name not in FIELDS:
        raise PydanticCustomError("address_field", "{text}", {"text": f"no address field ({nearest(name, FIELDS)})"})
    if colon and not (bits.isascii() and bits.isdigit() and 1 <= int(bits) <= 32):
        raise PydanticCustomError("address_bits", "must be a field or field:bits with 1 to 32 bits")
    return entry


def _xor_rule(entry: str) -> str:
    try:
        parse_xor(entry)
    except ValueError:
        raise PydanticCustomError("xor", "must be like 'bank_group:0 ^ row:2', with address fields") from None
    return entry


AddressField = Annotated[str, AfterValidator(_address_field)]
AddressMap = MapName | Annotated[tuple[AddressField, ...], Field(min_length=1)]
XorRule = Annotated[str, AfterValidator(_xor_rule)]


def parse_xor(rule: str) -> Xor:
    """`bank_group:0 ^ row:2` as ("bank_group", 0, "row", 2): inverts the group's bit 0 where the row's bit 2 is set."""
    left, right = rule.split("^")
    (field, bit), (other, other_bit) = left.strip().split(":"), right.strip().split(":")
    if field not in FIELDS or other not in FIELDS:
        raise ValueError(f"{rule!r} names no address field")
    return field, int(bit), other, int(other_bit)


def named_map(name: str, bits: Mapping[str, int], burst_bytes: int) -> tuple[tuple[str, ...], tuple[Xor, ...]]:
    """Entries and XOR of a named map for a part with so many bits a field. Raises ValueError with the nearest name."""
    if name not in MAP_NAMES:
        raise ValueError(f"no address map {name!r} ({nearest(name, MAP_NAMES)})")
    low = max(0, (REQUEST_BYTES // burst_bytes).bit_length() - 1)
    start = [*_columns(low), "channel"]
    orders = {
        "bgi": ["pseudo_channel", "bank_group", "column", "bank", "row"],
        "rbc": ["pseudo_channel", "column", "bank_group", "bank", "row"],
        "robaracoch": ["column", "pseudo_channel", "bank_group", "bank", "row"],
        "mop4clxor": [*_columns(2 - low), "pseudo_channel", "bank_group", "bank", "column", "row"],
    }
    return tuple(start + orders[name]), _mop_xor(bits) if name == "mop4clxor" else ()


def _columns(bits: int) -> list[str]:
    return [f"column:{bits}"] if bits > 0 else []


def _mop_xor(bits: Mapping[str, int]) -> tuple[Xor, ...]:
    """Bits of these fields, in this order, with the column's bits from the lowest, while they last."""
    order = ("pseudo_channel", "bank_group", "bank", "row")
    targets = [(field, bit) for field in order for bit in range(bits[field])]
    pairs = zip(targets, range(bits["column"]), strict=False)
    return tuple((field, bit, "column", column) for (field, bit), column in pairs)


def resolved(entries: Sequence[str], bits: Mapping[str, int], channels: int) -> tuple[tuple[str, int], ...]:
    """(field, bits) from the lowest bit above the burst; ("channel", 0) where channels are divided out.

    Raises ValueError where the entries do not fit the part, or where it holds more bursts than can be counted.
    """
    divided = channels & (channels - 1) != 0
    left, fields = dict(bits), []
    for entry in entries:
        name, _, wanted = entry.partition(":")
        taken = int(wanted) if wanted else left[name]
        _check_taken(entry, taken, left[name], channels if divided and name == "channel" else 0)
        left[name] -= taken
        fields += [(name, taken)] if taken or (divided and name == "channel") else []
    _check_total(fields, left, channels if divided else 1)
    return tuple(fields)


def _check_taken(entry: str, taken: int, left: int, divided: int) -> None:
    if divided and ":" in entry:
        raise ValueError(f"{entry!r} cuts a number of channels that is no power of two, got {divided}: write 'channel'")
    if taken > left:
        raise ValueError(f"{entry!r} takes {taken} bits, {left} are left of {entry.partition(':')[0]}")


def _check_total(fields: Sequence[tuple[str, int]], left: Mapping[str, int], divided: int) -> None:
    unused = [f"{name}:{bits}" for name, bits in left.items() if bits]
    names = [name for name, _ in fields]
    if divided > 1 and names.count("channel") != 1:
        raise ValueError(f"must name channel once, got it {names.count('channel')} times")
    if unused:
        raise ValueError(f"must use every address bit, {', '.join(unused)} left over")
    total = sum(bits for _, bits in fields)
    if divided << total > MAX_BURSTS:
        by = f" and {divided} channels" if divided > 1 else ""
        raise ValueError(f"must have at most 32 bits above the burst, got {total}{by}")


def check_xor(rules: Sequence[Xor], bits: Mapping[str, int]) -> None:
    """Each bit must exist, and no bit that is inverted may decide about another (so that the map stays one to one)."""
    for field, bit, other, other_bit in rules:
        for name, number in ((field, bit), (other, other_bit)):
            if number >= bits[name]:
                raise ValueError(f"xor names bit {number} of {name}, which has {bits[name]} bits")
    changed = {(field, bit) for field, bit, _, _ in rules}
    chained = [(name, bit) for _, _, name, bit in rules if (name, bit) in changed]
    if chained:
        raise ValueError(f"xor reads bit {chained[0][1]} of {chained[0][0]}, which another rule inverts")
