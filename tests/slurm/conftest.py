import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("tests_slurm_cluster", Path(__file__).parent / "cluster.py")
assert spec is not None
assert spec.loader is not None
cluster_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cluster_module)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A one-node SLURM for all tests, which are skipped if it cannot be started."""
    reason = cluster_module.missing()
    if reason:
        pytest.skip(f"no SLURM: {reason}")
    with cluster_module.Cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started
