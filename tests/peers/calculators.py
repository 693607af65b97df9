"""ASE calculators for tests: cheap, and as nasty as asked for."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from ase.calculators.calculator import all_changes
from ase.calculators.lj import LennardJones


class Balls(LennardJones):
    """One Lennard-Jones potential for all elements, nearest neighbours at about 2.6 Å."""

    def __init__(self) -> None:
        super().__init__(sigma=2.35, epsilon=0.2, rc=5.5, ro=4.5, smooth=True)


class Poisoned(Balls):
    """Balls that kill the process for xenon, raise for krypton, and lose their numbers for argon."""

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        symbols = set(atoms.get_chemical_symbols())
        if "Xe" in symbols:
            os.kill(os.getpid(), signal.SIGKILL)
        if "Kr" in symbols:
            raise RuntimeError("krypton is not to my taste")
        super().calculate(atoms, properties, system_changes)
        if "Ar" in symbols:
            self.results["energy"] = float("nan")


class Unlucky(Balls):
    """Balls whose process is killed by others some times, or whose disk is full then, when it has got to xenon."""

    def __init__(self, times: int = 4, error: str = "") -> None:
        super().__init__()
        self._times, self._error = times, error

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        if "Xe" in atoms.get_chemical_symbols():
            deaths = Path("deaths")
            if not deaths.exists() or deaths.stat().st_size < self._times:
                with deaths.open("a") as file:
                    file.write("x")
                if self._error == "disk":
                    raise OSError(errno.ENOSPC, "No space left on device")
                if self._error == "memory":
                    raise MemoryError
                os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, properties, system_changes)


class Slow(Balls):
    """Balls that take their time, so that there is time to break something."""

    def __init__(self, seconds: float = 0.05) -> None:
        super().__init__()
        self._seconds = seconds

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        time.sleep(self._seconds)
        super().calculate(atoms, properties, system_changes)
