"""The work of bench/stream.py: what is done to a record, and whole programs that do it, a function each.

    python bench/programs/stream_jobs.py PROGRAM JOB IN OUT MEMORY

Every program writes the same records, and ends once they are on the disk. A job is text (log lines: filter, change), csv (clean rows), jsonl (filter, add),
parquet (clean documents, as dicts) or arrow (the same, by pyarrow's own functions on tables).
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_JSON = json.JSONEncoder(ensure_ascii=False)


def keep_line(line: str) -> bool:
    return "DEBUG" not in line


def fix_line(line: str) -> str:
    return line.replace("ERROR", "error")


def fix_row(row: dict[str, str]) -> dict[str, str]:
    row["name"] = row["name"].strip().upper()
    row["cents"] = str(int(row["cents"]) * 12 // 10)
    return row


def keep_request(request: dict[str, Any]) -> bool:
    return bool(request["status"] >= 300)


def fix_request(request: dict[str, Any]) -> dict[str, Any]:
    request["slow"] = request["ms"] > 500
    return request


def fix_document(document: dict[str, Any]) -> dict[str, Any]:
    document["title"] = document["title"].strip().upper()
    document["cents"] = document["cents"] * 12 // 10
    return document


def fix_table(table: Any) -> Any:
    import pyarrow.compute as pc

    titles = pc.utf8_upper(pc.utf8_trim_whitespace(table["title"]))
    cents = pc.divide(pc.multiply(table["cents"], 12), 10)
    return table.set_column(1, "title", titles).set_column(2, "cents", cents)


def plain_tables(job: str, source: str, out: str) -> None:
    """pyarrow's own iteration, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if job == "parquet":
        with pq.ParquetFile(source) as file, pq.ParquetWriter(out, file.schema_arrow) as parquet:
            for batch in file.iter_batches():
                records = [fix_document(record) for record in batch.to_pylist()]
                parquet.write_batch(pa.RecordBatch.from_pylist(records, schema=file.schema_arrow))
    else:
        with pa.OSFile(source) as raw, pa.ipc.open_file(raw) as reader, pa.ipc.new_file(out, reader.schema) as writer:
            for i in range(reader.num_record_batches):
                writer.write_table(fix_table(pa.Table.from_batches([reader.get_batch(i)])))


def plain(job: str, source: str, out: str, memory: str) -> None:
    """As anybody writes it: a loop over the file."""
    if job in ("parquet", "arrow"):
        return plain_tables(job, source, out)
    with open(source, newline="" if job == "csv" else None) as lines, open(out, "w", newline="") as to:
        if job == "text":
            for line in lines:
                line = line.rstrip("\n")
                if keep_line(line):
                    to.write(fix_line(line) + "\n")
        elif job == "csv":
            reader = csv.DictReader(lines)
            writer = csv.DictWriter(to, reader.fieldnames or (), lineterminator="\n")
            writer.writeheader()
            for row in reader:
                writer.writerow(fix_row(row))
        else:
            for line in lines:
                request = json.loads(line)
                if keep_request(request):
                    to.write(json.dumps(fix_request(request), ensure_ascii=False) + "\n")


def unbounded(job: str, source: str, out: str, memory: str) -> None:
    """All of the file at once, in lists or a table."""
    if job in ("parquet", "arrow"):
        import pyarrow.feather as feather
        import pyarrow.parquet as pq

        if job == "parquet":
            table = pq.read_table(source)
            documents = [fix_document(document) for document in table.to_pylist()]
            return pq.write_table(table.from_pylist(documents, table.schema), out)
        return feather.write_feather(fix_table(feather.read_table(source)), out, compression="uncompressed")
    with open(source, newline="" if job == "csv" else None) as file:
        if job == "csv":
            rows = [fix_row(row) for row in csv.DictReader(file)]
        else:
            lines = file.read().splitlines()
    with open(out, "w", newline="") as to:
        if job == "text":
            to.write("".join(fix_line(line) + "\n" for line in lines if keep_line(line)))
        elif job == "csv":
            writer = csv.DictWriter(to, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            requests = [request for request in map(json.loads, lines) if keep_request(request)]
            to.write("".join(_JSON.encode(fix_request(request)) + "\n" for request in requests))


def _lowtide(workers: int) -> Callable[[str, str, str, str], None]:
    def run(job: str, source: str, out: str, memory: str) -> None:
        import lowtide

        stream = lowtide.stream(source, memory, workers=workers)
        if job == "text":
            stream = stream.filter(keep_line).map(fix_line)
        elif job == "csv":
            stream = stream.map(fix_row)
        elif job == "parquet":
            stream = stream.map(fix_document)
        elif job == "arrow":
            stream = stream.map_chunks(fix_table)
        else:
            stream = stream.filter(keep_request).map(fix_request)
        stream.write(out)

    return run


def pandas_chunks(job: str, source: str, out: str, memory: str) -> None:
    """read_csv and read_json in chunks, vectorized; lines as a column of one; of tables, pyarrow's batches."""
    import pandas as pd

    if job in ("parquet", "arrow"):
        return pandas_tables(job, source, out)
    if job == "jsonl":
        with pd.read_json(source, lines=True, chunksize=50_000, precise_float=True) as parts, open(out, "w") as to:
            for part in parts:
                part = part[part["status"] >= 300]
                part["slow"] = part["ms"] > 500
                for record in part.to_dict("records"):
                    to.write(_JSON.encode(record) + "\n")
        return
    if job == "text":
        words: dict[str, Any] = {"header": None, "names": ["line"], "sep": "\x01", "quoting": csv.QUOTE_NONE}
    else:
        words = {"dtype": str, "keep_default_na": False}
    with pd.read_csv(source, chunksize=50_000, **words) as parts, open(out, "w", newline="") as to:
        for number, part in enumerate(parts):
            if job == "text":
                part = part[~part["line"].str.contains("DEBUG", regex=False)]
                lines = part["line"].str.replace("ERROR", "error", regex=False)
                to.write("\n".join(lines) + "\n")
            else:
                part["name"] = part["name"].str.strip().str.upper()
                part["cents"] = (part["cents"].astype("int64") * 12 // 10).astype(str)
                part.to_csv(to, index=False, header=not number, lineterminator="\n")


def _fix_frame_documents(part: Any) -> Any:
    return part.assign(title=part["title"].str.strip().str.upper(), cents=part["cents"] * 12 // 10)


def pandas_tables(job: str, source: str, out: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        if job == "parquet":
            parquet = stack.enter_context(pq.ParquetFile(source))
            schema, batches = parquet.schema_arrow, parquet.iter_batches()
            writer: Any = stack.enter_context(pq.ParquetWriter(out, schema))
        else:
            reader = pa.ipc.open_file(stack.enter_context(pa.OSFile(source)))
            schema, batches = reader.schema, map(reader.get_batch, range(reader.num_record_batches))
            writer = stack.enter_context(pa.ipc.new_file(out, schema))
        for batch in batches:
            frame = _fix_frame_documents(batch.to_pandas())
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))


def polars_stream(job: str, source: str, out: str, memory: str) -> None:
    """The streaming engine: expressions, no Python in the loop."""
    import polars as pl

    if job in ("parquet", "arrow"):
        frame = pl.scan_parquet(source) if job == "parquet" else pl.scan_ipc(source)
        frame = frame.with_columns(pl.col("title").str.strip_chars().str.to_uppercase(), pl.col("cents") * 12 // 10)
        return frame.sink_parquet(out) if job == "parquet" else frame.sink_ipc(out)
    if job == "text":
        frame = pl.scan_csv(
            source,
            has_header=False,
            new_columns=["line"],
            separator="\x01",
            quote_char=None,
            schema={"line": pl.String},
        )
        frame = frame.filter(~pl.col("line").str.contains("DEBUG", literal=True))
        frame = frame.with_columns(pl.col("line").str.replace_all("ERROR", "error", literal=True))
        frame.sink_csv(out, include_header=False, separator="\x01", quote_style="never")
    elif job == "csv":
        frame = pl.scan_csv(source, infer_schema=False)
        name, cents = pl.col("name").str.strip_chars().str.to_uppercase(), pl.col("cents").cast(pl.Int64)
        frame.with_columns(name, (cents * 12 // 10).cast(pl.String)).sink_csv(out)
    else:
        frame = pl.scan_ndjson(source).filter(pl.col("status") >= 300)
        frame.with_columns((pl.col("ms") > 500).alias("slow")).sink_ndjson(out)


def _fix_text(lines: Iterable[str]) -> list[str]:
    return [fix_line(line.rstrip("\n")) for line in lines if keep_line(line)]


def _fix_json(lines: Iterable[str]) -> list[str]:
    requests = [request for request in map(json.loads, lines) if keep_request(request)]
    return [_JSON.encode(fix_request(request)) for request in requests]


def _fix_frame(part: Any) -> Any:
    part = part.assign(name=part["name"].str.strip().str.upper())
    return part.assign(cents=(part["cents"].astype("int64") * 12 // 10).astype(str))


def dask_local(job: str, source: str, out: str, memory: str) -> None:
    """A bag of lines or a dataframe, on two processes of a local cluster."""
    import dask.bag as db
    import dask.dataframe as dd
    import distributed

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        if job == "parquet":
            documents = dd.read_parquet(source, split_row_groups=True)
            documents.map_partitions(_fix_frame_documents, meta=documents._meta).to_parquet(out, write_index=False)
            return
        if job == "csv":
            frame = dd.read_csv(source, blocksize="8MiB", dtype=str, keep_default_na=False)
            frame.map_partitions(_fix_frame, meta=frame._meta).to_csv(
                out, single_file=True, index=False, lineterminator="\n"
            )
            return
        bag = db.read_text(source, blocksize="8MiB").map_partitions(_fix_text if job == "text" else _fix_json)
        parts = bag.to_textfiles(out + ".*.part")
    with open(out, "wb") as to:
        for path in parts:
            with open(path, "rb") as part:
                data = part.read()
            os.remove(path)
            to.write(data if data.endswith(b"\n") or not data else data + b"\n")


PROGRAMS: dict[str, Callable[[str, str, str, str], None]] = {
    "plain": plain,
    "unbounded": unbounded,
    "lowtide": _lowtide(0),
    "lowtide-1": _lowtide(1),
    "lowtide-2": _lowtide(2),
    "pandas": pandas_chunks,
    "polars": polars_stream,
    "dask": dask_local,
}


def sync(out: str) -> None:
    """lowtide gives a file its name once it is on the disk; the others are to end no earlier."""
    for path in Path(out).rglob("*") if os.path.isdir(out) else [Path(out)]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        PROGRAMS[sys.argv[1]](*sys.argv[2:6])
        sync(sys.argv[4])
