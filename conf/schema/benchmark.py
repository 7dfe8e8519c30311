"""The keys of `python -m chem.benchmark`."""

from dataclasses import dataclass

from conf.schema.base import key
from conf.schema.run import JobConfig

BENCHMARKS = ("pmo", "molexp", "molexpl", "table2")


@dataclass
class BenchmarkConfig(JobConfig):
    """Runs of methods on all tasks of a benchmark of sample efficiency."""

    benchmark: str = key(
        "pmo: 23 tasks; molexp: 4 tasks, each to find several targets by the similarity of fingerprints; molexpl: "
        "the same by the similarity of SMILES; table2: the two tasks of the paper's Table 2 without docking",
        choices=BENCHMARKS,
    )
    methods: list[str] = key(
        "experiments by name, below conf/chem/experiment/benchmark or, of table2, below its tasks; []: those of the "
        "benchmark"
    )
    tasks: list[str] = key("tasks to run; []: all of the benchmark")
    seeds: int = key("seeds of each method and task, from 0 on", low=1, high=10**4)
    budget: int = key("oracle calls of a run: distinct molecules", low=100)
    overrides: list[str] = key("KEY=VALUE for all runs; runs with other settings are other records")
    workers: int | None = key(
        "runs at a time, of one thread each; null: one per core; 0: only print the table", low=0
    )
    records: str = key("file of finished runs, one JSON line each; a run that it holds is not run again")
    work: str = key("folder of the runs that are going on")
    keep_runs: bool = key("whether to keep the folders of finished runs, 10 to 20 MB each")
    document: str | None = key("Markdown file between whose marks <!-- benchmark:NAME --> the table is written")
