"""How GPAW is built on Debian and Ubuntu: its build reads this file through GPAW_CONFIG.

GPAW 26 mixes C and C++, which plain gcc cannot link: the compiler is the C++ one, MPI's where there is one.
"""

import shutil

mpi = shutil.which("mpic++") is not None
compiler = "mpic++" if mpi else "g++"
libraries = ["xc", "openblas", "fftw3"]
fftw = True
scalapack = mpi
if mpi:
    libraries += ["scalapack-openmpi"]
