"""Works through what is stored, a batch at a time."""


def in_batches(size, db_connectors, **params):
    rows = db_connectors["numbers"].load() or []
    numbers = [row["Generated random number"] for row in rows]
    for start in range(0, len(numbers), size):
        batch = numbers[start:start + size]
        print(f"items from {start} to {start + len(batch)}")
        yield {"from": start, "to": start + len(batch), "sum": sum(batch)}
