"""Execute a program that is killed when its parent dies (PR_SET_PDEATHSIG).

    python -P run_with_parent.py STARTER SIGNAL program arguments …

Whoever is killed with -9 cannot end what he started, which would go on writing into a folder that is about to be
another's: so the system does it (on Linux), and `leash.lock` lets the next one begin only after the last one's end.
"""

import ctypes
import fcntl
import os
import sys

PR_SET_PDEATHSIG = 1


def main(starter: int, signum: int, *program: str) -> None:
    """Become the program; `signum` is what it gets when the process `starter` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
    lock = os.open("leash.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    if os.getppid() == starter:  # else it ended before the system was told to watch it
        os.execvp(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
