"""DFT calculations that take no time: the real driver with something quicker than GPAW inside, for each way to end."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pymatgen.core import Lattice, Structure

from flows.config.cluster import DFTJobs
from flows.dft import attempts
from flows.dft.attempts import Attempt
from flows.dft.calculation import Job
from flows.dft.run import folder_of, open_executor, run_jobs
from models.dft.base import DFTResult, DFTSettings
from models.dft.calculation_folder import DRIVER
from models.dft.gpaw.code import Gpaw

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [(0, 0, 0)])

FAKE = f"""
import importlib.util, json, os, signal, subprocess, sys, time
spec = importlib.util.spec_from_file_location("driver", {str(DRIVER)!r})
driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driver)

def compute(code, task, started):
    with open("starts", "a") as file:
        file.write(f"{{time.time()}}\\n")
    starts = len(open("starts").readlines())
    kind = task["settings"]["preset"]
    if kind == "dies" or (kind == "dies-once" and starts == 1):
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "killed" or (kind == "killed-thrice" and starts <= 3):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "slow":
        time.sleep(1.5)
    if kind == "long":
        time.sleep(60)
    if kind == "deaf":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
    if kind == "memory":
        bytearray(2**40)
    if kind == "scf":
        raise driver.course.Ended("scf_not_converged", "the density did not converge")
    if kind == "steps":
        # Twenty of a tenth of a second.
        return steps(task, started)
    if kind == "stuck-once":
        # After five, and then it does not hear its own timer.
        return steps(task, started, stuck=starts == 1)
    if kind == "waits":
        while not os.path.exists("go"):
            time.sleep(0.05)
    if kind == "hidden-memory" and task["memory_gib"] < 0.4:
        # The driver's own watch sees nothing of it.
        driver.resident_gib = lambda pid: 0.0
        hog = bytearray(400 * 2**20)
        time.sleep(60)
    if kind == "environment":
        driver.course.write("environment.json", dict(os.environ))
    if kind == "no-result":
        os._exit(0)
    if kind == "disk":
        raise OSError(28, "No space left on device")
    if kind == "broken":
        raise FileNotFoundError("no PAW setup for Si")
    time.sleep(0.1)
    return done(task)

def steps(task, started, stuck=False):
    n = driver.course.read("checkpoint.json")["n_steps"] if os.path.exists("checkpoint.json") else 0
    while n < 20:
        time.sleep(0.1)
        n += 1
        driver.course.write("checkpoint.json", {{"n_steps": n, "wall_time_s": time.time() - started}})
        with open("steps", "a") as file:
            file.write(f"{{n}}\\n")
        if stuck and n == 5:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(300)
    return done(task)

def done(task):
    with open("ends", "a") as file:
        file.write(f"{{time.time()}}\\n")
    return {{
        "status": "converged", "energy": -10.0, "band_gap": 0.6, "numbers": task["numbers"], "cell": task["cell"],
        "scaled_positions": task["scaled_positions"],
    }}

driver.compute = compute
sys.exit(driver.main("gpaw", sys.argv[1]))
"""


class Quick(Gpaw):
    """GPAW's folders and driver, without GPAW."""

    def __init__(self, script: Path) -> None:
        self.script = script

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        return [*mpi, sys.executable, "-P", str(self.script), str(folder)]


def job(kind: str, key: str | None = None, **settings) -> Job:
    values = {
        "code": "gpaw",
        "preset": kind,
        "potentials": "none",
        "cutoff_ev": 300.0,
        "kpoints": (2, 2, 2),
        "kpoint_shift": (True, True, True),
        "gap_kpoints": (2, 2, 2),
        "smearing_ev": 0.05,
        "convergence_energy_ev": 1e-3,
        "convergence_density": 1e-3,
        "max_scf_steps": 10,
    }
    asked = DFTSettings(**(values | settings))
    return Job(calculation_id=key or kind, material_id=kind, structure=SILICON, settings=asked)


class Calculations:
    """A folder of calculations, and what came out of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.script = folder / "fake_driver.py"
        self.script.write_text(FAKE)
        self.order: list[str] = []
        self.said: list[str] = []

    def run(
        self,
        *jobs: Job,
        stop: threading.Event | None = None,
        concurrent: int = 2,
        hardware: DFTJobs | None = None,
        retry: bool = False,
        **limits: float,
    ) -> dict[str, DFTResult]:
        """Run jobs to their ends; `limits` are those of a cluster file."""
        results: dict[str, DFTResult] = {}
        hardware = (hardware or DFTJobs()).model_copy(update={"walltime_s": 50.0, "memory_gib": 4.0} | limits)
        code = Quick(self.script)

        def deliver(job: Job, result: DFTResult) -> None:
            assert job.calculation_id not in results
            self.order.append(job.calculation_id)
            results[job.calculation_id] = result

        run_jobs(
            jobs,
            code,
            runs_dir=self.folder,
            concurrent=concurrent,
            limits=hardware.limits(),
            most=hardware.most(),
            executor=open_executor(hardware, code),
            on_result=deliver,
            stop=stop or threading.Event(),
            say=self.said.append,
            retry=retry,
        )
        return results

    def attempts(self, key: str) -> list[Attempt]:
        """Read what the folder says of the attempts."""
        return attempts.read(folder_of(self.folder, key))

    def times(self, key: str, name: str = "starts") -> list[float]:
        """Read what the stand-in noted, a number a line."""
        path = folder_of(self.folder, key) / name
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []
