"""Reads and edits what sentencepiece's Python interface does not give access to, in the bytes of its model file.

A `tokenizer.model` is a protocol buffer. Field 1 of the model, repeated, is a piece (field 1 its text, field 3 its type);
field 2 is the trainer's settings, field 16 of those the number of threads.
"""

from collections.abc import Iterator

USER_DEFINED = 4  # a type of piece


def without_thread_count(model: bytes) -> bytes:
    """A sentencepiece model without the number of threads that trained it, the only field that depends on them."""
    kept = []
    for number, whole, payload in _fields(model):
        if number == 2:
            whole = encode_field(2, b"".join(field for inner, field, _ in _fields(payload) if inner != 16))
        kept.append(whole)
    return b"".join(kept)


def user_defined_pieces(model: bytes) -> list[str]:
    """Pieces that sentencepiece matches in a text before it joins any pairs."""
    found = []
    for number, _, piece in _fields(model):
        if number == 1:
            fields = {inner: (field, payload) for inner, field, payload in _fields(piece)}
            if 3 in fields and _read_varint(fields[3][0], 1)[0] == USER_DEFINED:
                found.append(fields[1][1].decode())
    return found


def encode_field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer: a whole number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Each field of a protocol buffer: its number, its bytes with tag, and its content where it has a length."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _read_varint(message, at)
        content = b""
        if tag & 7 == 0:
            _, at = _read_varint(message, at)
        elif tag & 7 == 2:
            length, at = _read_varint(message, at)
            content = message[at : at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, message[start:at], content


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
