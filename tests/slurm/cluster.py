"""A real one-node SLURM in a temporary folder, without accounting, that submits, requeues and cancels jobs."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,max_rpc_cnt=0,defer_batch
SlurmctldTimeout=60
SlurmdTimeout=60
InactiveLimit=0
KillWait=20
MinJobAge=300
Waittime=0
SlurmdParameters=config_overrides
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=20000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started on this machine, or None."""
    if os.geteuid() != 0:
        return "starting a SLURM cluster needs root"
    absent = [name for name in (*DAEMONS, "sbatch", "mungekey") if not _find(name)]
    return (
        f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge; tools/services.sh installs them)"
        if absent
        else None
    )


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """A cluster that runs inside a `with` block. Leaving the block ends its jobs and daemons."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755, parents=True)
        munge, host = self.folder / "munge", socket.gethostname()
        text = CONF.format(host=host, folder=self.folder, ports=[_free_port(), _free_port()])
        self.conf.write_text(text)
        os.environ["SLURM_CONF"] = str(self.conf)
        subprocess.run([str(_find("mungekey")), "--create", f"--keyfile={munge}/key"], check=True)
        files = [f"--key-file={munge}/key", f"--socket={munge}/socket", f"--pid-file={munge}/pid"]
        files += [f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--force"]
        self._start("munged", "--foreground", *files)
        self._wait(lambda: (munge / "socket").exists())
        self._start("slurmctld", "-D", "-i", "-f", str(self.conf))
        self._start("slurmd", "-D", "-f", str(self.conf), "-N", host)
        self._wait(lambda: self.command("sinfo", "-h", "-o", "%T") == "idle")
        return self

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as out:
            self.daemons.append(
                subprocess.Popen(
                    [str(_find(name)), *arguments], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
            )

    def _wait(self, ready, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                logs = {path.name: path.read_text()[-500:] for path in self.folder.glob("*.out")}
                raise RuntimeError(f"SLURM did not start: {logs}")
            time.sleep(0.1)

    def command(self, *arguments: str) -> str:
        """Run a command and return its output."""
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60).stdout.strip()

    def states(self) -> dict[str, str]:
        """The states of all jobs that SLURM still knows, by job id; -r names each waiting job of an array."""
        lines = self.command("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_until(self, ready, seconds: float = 120):
        """Wait until `ready()` is true and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := ready()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs: {self.states()}")
            time.sleep(0.1)
        return value

    def __exit__(self, *_: object) -> None:
        self.command("scancel", "--full", "--signal=KILL", "--user=root")
        self.command("scancel", "--user=root")
        with suppress(TimeoutError):
            self.wait_until(lambda: not self.command("squeue", "-h", "-t", "R,CG"), 15)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        subprocess.run(["pkill", "-f", f"slurmstepd.*{self.folder}"], check=False)
        del os.environ["SLURM_CONF"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
