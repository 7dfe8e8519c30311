"""Read the files that Weights & Biases writes offline."""

import json
import struct

HEADER, BLOCK, RECORD = 7, 32768, 7  # bytes of the file's header, of a block, and of a record's header
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def history(folder):
    """The rows of the history in a run's folder wandb/, without the keys of Weights & Biases itself."""
    from wandb.proto import wandb_internal_pb2 as protocol

    rows = []
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = protocol.Record()  # type: ignore[attr-defined]  # made at import
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return rows


def records(content):
    """Yield the records of a file in the format of LevelDB's log: parts with checksum, length and kind, in blocks."""
    position, parts = HEADER, b""
    while position + RECORD <= len(content):
        left = BLOCK - position % BLOCK
        if left < RECORD:  # padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        part = content[position + RECORD : position + RECORD + length]
        position += RECORD + length
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield parts
