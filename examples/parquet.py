"""A folder of recordings to Parquet, and a DuckDB query.

python examples/parquet.py [FOLDER [OUT]]

Run it again to see that finished clips are not analyzed twice. Needs e2v-port[batch] and duckdb.
"""

import sys
from pathlib import Path

import duckdb

from e2v_port.corpus.run import run

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"


def main() -> None:
    """Analyzes the folder, then asks a question about it."""
    folder = sys.argv[1] if len(sys.argv) > 1 else str(SPEECH)
    out = sys.argv[2] if len(sys.argv) > 2 else "rows"

    # Resumes what an earlier run left unfinished, and writes a row per segment of speech.
    summary = run(folder, out)
    print(f"{summary.clips} clips, {summary.rows} segments, {summary.failed} failed; this run did {summary.done}")

    # Any tool reads the files: pandas, polars, Spark, or a database without a server.
    answer = duckdb.sql(
        f"""
        select "primary" as emotion, count(*) as segments, round(sum("end" - start), 1) as seconds,
               round(avg(confidence), 2) as confidence
        from '{out}/rows/*.parquet'
        where error is null
        group by "primary"
        order by seconds desc
        """
    )
    for row in answer.fetchall():
        print("{:10} segments: {}, seconds: {}, mean confidence: {}".format(*row))


# Clips are decoded in processes of their own, which import this file again.
if __name__ == "__main__":
    main()
